"""TLS on a real server: own authority, client certificates, names, and shaking hands first."""

import asyncio
import ssl
import subprocess
from contextlib import asynccontextmanager
from time import monotonic

import pytest
import pytest_asyncio
import uvloop

from broker.backends.nats.addresses import parse
from broker.backends.nats.wire import WireLink
from broker.contracts.errors import ConnectError
from broker.contracts.options import ConnectOptions
from broker.contracts.status import Stats
from broker.server import NatsServer
from broker.testing.waiting import eventually
from tests.door import door_to
from tests.integration.test_wire_identity import Heard

pytestmark = pytest.mark.nats


def openssl(*arguments):
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


class Authority:
    """Signs certificates; its files lie in one directory."""

    def __init__(self, directory, name):
        self.directory = directory
        self.certificate, self._key = directory / f"{name}.pem", directory / f"{name}.key"
        self._new(name, self._key, "-x509", "-out", self.certificate, "-days", "2")

    @staticmethod
    def _new(name, key, *more):
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        openssl("req", *curve, "-subj", f"/CN={name}", "-keyout", key, *more)

    def issue(self, name, *alternatives):
        key, request, made = (self.directory / f"{name}.{end}" for end in ("key", "csr", "pem"))
        self._new(name, key, "-out", request)
        extensions = self.directory / f"{name}.ext"
        names = ",".join(alternatives) or f"DNS:{name}"
        extensions.write_text(f"subjectAltName={names}\nextendedKeyUsage=serverAuth,clientAuth\n")
        signed = ["-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial", "-days", "2", "-extfile", extensions]
        openssl("x509", "-req", "-in", request, "-out", made, *signed)
        return made, key

    def context(self, own=None):
        context = ssl.create_default_context(cafile=str(self.certificate))
        if own is not None:
            context.load_cert_chain(*map(str, own))
        return context


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("tls"), "ours")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("tls"), "theirs")


@pytest.fixture(scope="module")
def for_address(authority):
    return authority.issue("server", "IP:127.0.0.1", "DNS:localhost")


def tls(files, *more):
    certificate, key = files
    return f'tls {{ cert_file: "{certificate}", key_file: "{key}", {", ".join(["timeout: 2", *more])} }}'


@asynccontextmanager
async def serving(files, *, first):
    """A server; its readiness probe waits for INFO, so one that shakes hands first is told to do so afterwards."""
    async with NatsServer(config=tls(files)) as server:
        if first:
            await server.reload(tls(files, "handshake_first: true"))
        yield server


@pytest_asyncio.fixture
async def link():
    opened = []

    async def connect(url, context=None, **more):
        options = ConnectOptions(url=url, tls=context, connect_timeout=2, **more)
        opened.append(WireLink(options, parse(options), Heard(), Stats()))
        await opened[-1].connect()
        await opened[-1].ping(2)
        return opened[-1]

    yield connect
    for each in opened:
        await each.close()


async def traffic(link):
    seen = []
    link.subscribe(b"tls.*", None, lambda *message: seen.append(message))
    for size in (0, 10, 300_000):
        link.send(b"PUB tls.x %d\r\n%b\r\n" % (size, b"x" * size))
    await link.ping(2)
    assert [len(each[2]) for each in seen] == [0, 10, 300_000]


async def test_own_authority(link, authority, for_address):
    async with NatsServer(config=tls(for_address)) as server:
        for url in (server.url, server.url.replace("nats:", "tls:"), server.url.replace("127.0.0.1", "localhost")):
            await traffic(await link(url, authority.context()))


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("first", [False, True])
def test_on_both_loops_nothing_is_left_behind(authority, for_address, loop, first):
    async def everything(url):
        options = ConnectOptions(url=url, tls=authority.context(), tls_first=first)
        link = WireLink(options, parse(options), heard := Heard(), Stats())
        await link.connect()
        await traffic(link)
        await link.force_reconnect()
        await eventually(lambda: heard.events == ["lost", "restored"])
        await link.ping(2)
        await link.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    serve = serving(for_address, first=first)
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as keeper:
        server = keeper.run(serve.__aenter__())
        try:
            with asyncio.Runner(loop_factory=loop) as runner:
                runner.run(everything(server.url))
        finally:
            keeper.run(serve.__aexit__(None, None, None))


async def test_a_client_certificate(link, authority, stranger, for_address):
    config = tls(for_address, "verify: true", f'ca_file: "{authority.certificate}"')
    async with NatsServer(config=config) as server:
        await traffic(await link(server.url, authority.context(authority.issue("ann"))))
        for own in (None, stranger.issue("eve")):
            with pytest.raises(ConnectError, match=r"127\.0\.0\.1.*TLS failed"):
                await link(server.url, authority.context(own))


@pytest.mark.parametrize("first", [False, True])
async def test_a_wrong_authority_or_name_is_told_in_time(link, authority, stranger, for_address, first):
    began = monotonic()
    async with serving(for_address, first=first) as server:
        with pytest.raises(ConnectError, match=r"127\.0\.0\.1.*TLS failed: .*local issuer certificate"):
            await link(server.url, stranger.context(), tls_first=first)
        with pytest.raises(ConnectError, match="TLS failed"):
            await link(server.url, tls_first=first)
    async with serving(authority.issue("elsewhere.example"), first=first) as server:
        with pytest.raises(ConnectError, match=r"127\.0\.0\.1.*TLS failed: .*mismatch"):
            await link(server.url, authority.context(), tls_first=first)
    assert monotonic() - began < 18


async def test_shaking_hands_first(link, authority, for_address):
    async with serving(for_address, first=True) as server:
        await traffic(await link(server.url, authority.context(), tls_first=True))
        with pytest.raises(ConnectError):
            await link(server.url, authority.context())
    async with NatsServer(config=tls(for_address)) as server:
        with pytest.raises(ConnectError, match="TLS failed"):
            await link(server.url, authority.context(), tls_first=True)


@pytest.mark.parametrize("verify", [(), ("verify: true",)])
async def test_a_server_that_shakes_hands_first_starts_and_starts_again(link, authority, for_address, verify):
    more = [f'ca_file: "{authority.certificate}"'] if verify else []
    async with NatsServer(config=tls(for_address, "handshake_first: true", *verify, *more)) as server:
        own = authority.context(authority.issue("ann"))
        connected = await link(server.url, own, tls_first=True)
        await server.restart()
        await eventually(lambda: connected._events.events == ["lost", "restored"], within=15)
        await connected.ping(5)


async def test_what_must_be_encrypted_is_not_sent_in_the_clear(link, authority):
    async with NatsServer() as server:
        for url, context in ((server.url.replace("nats:", "tls:"), None), (server.url, authority.context())):
            with pytest.raises(ConnectError, match="does not offer TLS"):
                await link(url, context)


async def test_what_is_slipped_in_before_tls_is_refused(link, authority):
    """Somebody in between may not put words into the server's mouth."""

    async def between(_reader, writer):
        writer.write(b'INFO {"tls_required":true}\r\nMSG tls.x 1 1\r\nx\r\n')
        await writer.drain()
        await asyncio.sleep(0.2)
        writer.close()

    async with await asyncio.start_server(between, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ConnectError, match="in the clear before TLS"):
            await link(f"nats://127.0.0.1:{port}", authority.context())


async def test_a_discovered_address_must_show_the_name_that_led_there(link, authority):
    files = authority.issue("localhost")
    async with NatsServer(config=tls(files)) as server, door_to(server) as door:
        connected = await link(server.url.replace("127.0.0.1", "localhost"), authority.context())
        pool = connected._dialer.pool
        pool.learn([f"127.0.0.1:{door.port}"], pool.shuffled()[0])
        await connected.force_reconnect()
        await eventually(lambda: connected._events.events == ["lost", "restored"])
        assert connected.server == f"127.0.0.1:{door.port}"
        await connected.ping(2)
