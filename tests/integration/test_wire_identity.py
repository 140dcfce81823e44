"""Every way to say who we are, to a real server, through the wire link."""

import base64
import hashlib
import json
import secrets
import time
from dataclasses import dataclass

import nkeys
import pytest
import pytest_asyncio

from broker.backends.nats.addresses import parse
from broker.backends.nats.contract import LinkEvents
from broker.backends.nats.wire import WireLink
from broker.contracts.errors import ConnectError, Unauthorized
from broker.contracts.options import ConnectOptions
from broker.contracts.status import Stats
from broker.server import NatsServer
from broker.testing.waiting import eventually

pytestmark = pytest.mark.nats


class Heard(LinkEvents):
    def __init__(self):
        self.events = []
        self.restored_at = 0.0

    def on_lost(self):
        self.events.append("lost")

    def on_restored(self):
        self.events.append("restored")
        self.restored_at = time.time()

    def on_refused(self):
        self.events.append("refused")

    def on_violation(self, verb, subject, queue, text):
        self.events.append((verb, subject, queue, text))

    def on_complaint(self, text):
        self.events.append(text)


@pytest_asyncio.fixture
async def link():
    opened = []

    async def connect(url, **options):
        heard, given = Heard(), ConnectOptions(url=url, connect_timeout=3, **options)
        opened.append(WireLink(given, parse(given), heard, Stats()))
        await opened[-1].connect()
        await opened[-1].ping(2)
        return opened[-1], heard

    yield connect
    for each in opened:
        await each.close()


@dataclass
class Key:
    seed: str
    public: str

    def sign(self, text):
        return base64.urlsafe_b64encode(nkeys.from_seed(self.seed.encode()).sign(text.encode())).rstrip(b"=").decode()


def new_key(prefix):
    seed = nkeys.encode_seed(secrets.token_bytes(32), prefix)
    return Key(seed.decode(), nkeys.from_seed(seed).public_key.decode())


def new_jwt(issuer, subject, name, nats, **more):
    def part(value):
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    claims = {"iat": int(time.time()), "iss": issuer.public, "name": name, "sub": subject.public, "nats": nats, **more}
    claims["jti"] = base64.b32encode(hashlib.sha256(json.dumps(claims).encode()).digest()).rstrip(b"=").decode()
    body = f"{part({'typ': 'JWT', 'alg': 'ed25519-nkey'})}.{part(claims)}"
    return f"{body}.{issuer.sign(body)}"


class Realm:
    """An operator with one account, as ``nsc`` would make it."""

    def __init__(self):
        self.operator, self.account = new_key(nkeys.PREFIX_BYTE_OPERATOR), new_key(nkeys.PREFIX_BYTE_ACCOUNT)
        system = new_key(nkeys.PREFIX_BYTE_ACCOUNT)
        operator = new_jwt(self.operator, self.operator, "op", {"type": "operator", "version": 2})
        self.config = (
            f"operator: {operator}\nsystem_account: {system.public}\nresolver: MEMORY\nresolver_preload: {{\n"
            f"{self.account.public}: {self._account(self.account, 'GAME')}\n"
            f"{system.public}: {self._account(system, 'SYS')}\n}}\n"
        )

    def _account(self, key, name):
        free = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1)
        nats = {"type": "account", "version": 2, "limits": {**free, "wildcards": True}, "default_permissions": {}}
        return new_jwt(self.operator, key, name, nats)

    def creds(self, *, life=None):
        user = new_key(nkeys.PREFIX_BYTE_USER)
        limits = {"subs": -1, "data": -1, "payload": -1}
        expiry = {} if life is None else {"exp": int(time.time() + life)}
        jwt = new_jwt(
            self.account, user, "ann", {"type": "user", "version": 2, "pub": {}, "sub": {}, **limits}, **expiry
        )
        return (
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n"
        )


async def test_user_and_password(link):
    async with NatsServer(config="authorization { user: ann, password: right }") as server:
        await link(server.url, user="ann", password="right")
        await link(server.url.replace("//", "//ann:right@"))
        for wrong in ({"user": "ann", "password": "wr0ng"}, {"token": "wr0ng"}, {}):
            began = time.monotonic()
            with pytest.raises(Unauthorized, match="Authorization Violation") as caught:
                await link(server.url, **wrong)
            assert time.monotonic() - began < 2.5
            assert "wr0ng" not in f"{caught.value!r}{caught.value.__cause__!r}{caught.value.__context__!r}"


async def test_token(link):
    async with NatsServer(config="authorization { token: right }") as server:
        await link(server.url, token="right")
        await link(server.url.replace("//", "//right@"))
        with pytest.raises(Unauthorized):
            await link(server.url, token="wr0ng")


async def test_nkey(link, tmp_path):
    known, stranger = new_key(nkeys.PREFIX_BYTE_USER), new_key(nkeys.PREFIX_BYTE_USER)
    (tmp_path / "known.nk").write_text(known.seed)
    (tmp_path / "stranger.nk").write_text(stranger.seed)
    async with NatsServer(config=f"authorization {{ users: [ {{ nkey: {known.public} }} ] }}") as server:
        await link(server.url, creds=str(tmp_path / "known.nk"))
        with pytest.raises(Unauthorized) as caught:
            await link(server.url, creds=str(tmp_path / "stranger.nk"))
        assert stranger.seed not in repr(caught.value)
        with pytest.raises(ConnectError, match=r"none\.nk: No such file"):
            await link(server.url, creds=str(tmp_path / "none.nk"))


async def test_jwt_credentials(link, tmp_path):
    realm = Realm()
    file = tmp_path / "ann.creds"
    async with NatsServer(config=realm.config) as server:
        file.write_text(realm.creds())
        await link(server.url, creds=str(file))
        file.write_text(Realm().creds())
        with pytest.raises(Unauthorized):
            await link(server.url, creds=str(file))


@pytest.mark.fault
async def test_credentials_that_were_renewed_in_time_go_on(link, tmp_path):
    realm = Realm()
    file = tmp_path / "ann.creds"
    async with NatsServer(config=realm.config) as server:
        file.write_text(realm.creds(life=4))
        connected, heard = await link(server.url, creds=str(file))
        file.write_text(realm.creds())
        await eventually(lambda: "restored" in heard.events, within=15)
        await connected.ping(2)


@pytest.mark.fault
async def test_credentials_that_expired_are_final(link, tmp_path):
    """The server counts whole seconds: within the last one it may take us once more, and then never again."""
    realm = Realm()
    file = tmp_path / "ann.creds"
    async with NatsServer(config=realm.config) as server:
        expires = time.time() + 3
        file.write_text(realm.creds(life=3))
        connected, heard = await link(server.url, creds=str(file))
        await eventually(lambda: connected.closed, within=15)
        assert heard.events[-1] == "refused"
        assert heard.restored_at < expires + 2


@pytest.mark.fault
async def test_a_user_removed_by_a_reload_is_final(link):
    users = "authorization {{ users: [ {{ user: {}, password: p }}, {{ user: other, password: p }} ] }}"
    async with NatsServer(config=users.format("ann"), login={"user": "other", "pass": "p"}) as server:
        connected, heard = await link(server.url, user="ann", password="p")
        await server.reload(users.format("bob"))
        await eventually(lambda: connected.closed)
        assert heard.events[-1] == "refused"


async def test_a_server_that_is_full_says_so(link):
    async with NatsServer() as server:
        await link(server.url)
        await server.reload("max_connections: 1")
        with pytest.raises(ConnectError, match="maximum connections exceeded"):
            await link(server.url)
