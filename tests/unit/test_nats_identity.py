"""What CONNECT says of us, and that nothing else ever says it."""

import base64
import secrets
import sys

import nkeys
import pytest

from broker.backends.nats.addresses import parse
from broker.backends.nats.identity import Identity
from broker.contracts.errors import ConnectError
from broker.contracts.options import ConnectOptions

OPEN = ""
ASKED = "a-nonce"
JWT = "eyJ0eXAi.eyJqdGkiOiJ4In0.c2ln_-A"


def new_seed():
    return nkeys.encode_seed(secrets.token_bytes(32), nkeys.PREFIX_BYTE_USER).decode()


def creds_text(seed, jwt=JWT):
    return (
        f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
        "************************* IMPORTANT *************************\n"
        "NKEY Seed printed below can be used to sign and prove identity.\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )


@pytest.fixture
def seed():
    return new_seed()


def identity(**options):
    given = ConnectOptions(url=options.pop("url", "nats://a:1"), **options)
    return Identity(parse(given), given.creds)


class TestPlain:
    async def test_each_way(self):
        assert await identity().fields(OPEN) == {}
        assert await identity(user="ann", password="p").fields(OPEN) == {"user": "ann", "pass": "p"}
        assert await identity(user="ann", password="").fields(OPEN) == {"user": "ann", "pass": ""}
        assert await identity(token="t").fields(OPEN) == {"auth_token": "t"}
        assert await identity(url="nats://ann:p%40@a:1").fields(OPEN) == {"user": "ann", "pass": "p@"}
        assert await identity(url="nats://t@a:1").fields(OPEN) == {"auth_token": "t"}

    def test_nothing_is_shown(self):
        assert "s3cret" not in repr(identity(user="ann", password="s3cret"))

    @pytest.mark.parametrize(
        "given", [{"user": "ann", "password": "s3cret"}, {"token": "s3cret"}, {"creds": "/s3cret"}]
    )
    def test_a_refusal_says_that_it_was_refused_or_that_nothing_was_given(self, given):
        assert str(identity(**given).refused("no")) == "nats://a:1 refused the credentials: no"
        told = str(identity().refused("no"))
        assert told.startswith(
            "nats://a:1 wants credentials (no), and no user, token or creds= was given: give connect()"
        )


class TestFile:
    @pytest.mark.parametrize("newline", ["\n", "\r\n"])
    async def test_a_jwt_and_its_seed(self, tmp_path, seed, newline):
        file = tmp_path / "ann.creds"
        file.write_bytes(creds_text(seed).replace("\n", newline).encode())
        told = await identity(creds=str(file)).fields(ASKED)
        assert told["jwt"] == JWT
        signature = base64.urlsafe_b64decode(told["sig"] + "==")
        assert nkeys.from_seed(seed.encode()).verify(b"a-nonce", signature)
        assert seed not in repr(told)

    async def test_a_seed_alone_is_an_nkey(self, tmp_path, seed):
        file = tmp_path / "ann.nk"
        file.write_text(f"{seed}\n")
        told = await identity(creds=str(file)).fields(ASKED)
        assert told["nkey"] == nkeys.from_seed(seed.encode()).public_key.decode()
        assert set(told) == {"nkey", "sig"}

    async def test_it_is_read_anew_every_time(self, tmp_path):
        file = tmp_path / "ann.creds"
        file.write_text(creds_text(new_seed(), "a.b.c"))
        ann = identity(creds=str(file))
        assert ann.renewable
        assert (await ann.fields(ASKED))["jwt"] == "a.b.c"
        file.write_text(creds_text(new_seed(), "d.e.f"))
        assert (await ann.fields(ASKED))["jwt"] == "d.e.f"

    async def test_a_server_that_asks_for_no_key_gets_none(self, tmp_path, seed):
        file = tmp_path / "ann.creds"
        file.write_text(creds_text(seed))
        assert await identity(creds=str(file)).fields(OPEN) == {}

    @pytest.mark.parametrize(
        "text", ["", "hello", "-----BEGIN NATS USER JWT-----\na.b.c\n------END NATS USER JWT------\n"]
    )
    async def test_what_is_something_else_is_named(self, tmp_path, text):
        file = tmp_path / "ann.creds"
        file.write_text(text)
        with pytest.raises(ConnectError, match=r"ann\.creds: no seed in it"):
            await identity(creds=str(file)).fields(ASKED)

    async def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(ConnectError, match=r"ann\.creds: No such file"):
            await identity(creds=str(tmp_path / "ann.creds")).fields(ASKED)

    async def test_a_broken_seed_stays_out_of_the_error(self, tmp_path, seed):
        broken = seed[:20] + "7777777" + seed[27:]
        broken = "SX" + broken[2:]
        file = tmp_path / "ann.nk"
        file.write_text(broken)
        with pytest.raises(ConnectError, match="not a key") as caught:
            await identity(creds=str(file)).fields(ASKED)
        assert broken not in f"{caught.value!r}{caught.value.__cause__!r}"
        assert caught.value.__suppress_context__

    async def test_a_missing_package_is_named(self, tmp_path, seed, monkeypatch):
        file = tmp_path / "ann.creds"
        file.write_text(creds_text(seed))
        monkeypatch.setitem(sys.modules, "nkeys", None)
        with pytest.raises(ConnectError, match=r"pip install .gamebroker\[nkeys\]"):
            await identity(creds=str(file)).fields(ASKED)
