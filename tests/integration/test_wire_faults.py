"""Servers that die, freeze, move and refuse, under the wire link; and many links at once."""

import asyncio
import gc
import socket
from contextlib import suppress
from time import monotonic

import pytest
import pytest_asyncio
import uvloop

from broker.backends.nats.addresses import parse
from broker.backends.nats.wire import WireLink
from broker.contracts.errors import ConnectError, ConnectionLost, InvalidOption, RequestTimeout
from broker.contracts.options import ConnectOptions
from broker.contracts.status import Stats
from broker.server import Cluster, NatsServer
from broker.server.ports import free_ports
from broker.testing.waiting import eventually, never
from tests.integration.test_wire_identity import Heard

pytestmark = [pytest.mark.nats, pytest.mark.fault]


@pytest_asyncio.fixture
async def server():
    async with NatsServer(sync_interval=None) as started:
        yield started
        if started.running:
            await started.thaw()


@pytest_asyncio.fixture
async def link():
    opened = []

    async def connect(url, *, heard=None, timeout=3, **more):
        options = ConnectOptions(url=url, connect_timeout=timeout, **more)
        opened.append(WireLink(options, parse(options), heard or Heard(), Stats()))
        await opened[-1].connect()
        return opened[-1]

    yield connect
    await asyncio.gather(*(each.close() for each in opened))


def listening(link, pattern=b"a.*"):
    seen = []
    link.subscribe(pattern, None, lambda *message: seen.append(message))
    return seen


def restored(link, times=1):
    return lambda: link._events.events.count("restored") == times


class TestConnecting:
    @pytest.mark.parametrize(
        ("url", "reason"),
        [
            ("nats://127.0.0.1:1", "connection refused"),
            ("nats://no-such-host.invalid:4222", "not known|resolution"),
            (
                "nats://127.0.0.1:1,nats://127.0.0.1:2",
                "127.0.0.1:[12]: connection refused; .*:[12]: connection refused",
            ),
        ],
    )
    async def test_nobody_there_is_named_with_the_reason(self, link, url, reason):
        began = monotonic()
        with pytest.raises(ConnectError, match=f"{url.split(',', maxsplit=1)[0]}.*({reason})"):
            await link(url)
        assert monotonic() - began < 6

    @pytest.mark.parametrize(
        ("said", "reason"),
        [
            (b"", "no answer in"),
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", "not a NATS server"),
            (b"INFO {}\r\n", "no answer in"),
            (b"INFO {}\r\nGARBAGE\r\n", "not a NATS server"),
            (None, "hung up|reset"),
        ],
    )
    async def test_whoever_is_there_instead_is_a_connect_error_in_time(self, link, said, reason):
        async def answer(_reader, writer):
            if said is not None:
                writer.write(said)
                await asyncio.sleep(1)
            writer.close()

        async with await asyncio.start_server(answer, "127.0.0.1", 0) as impostor:
            began = monotonic()
            with pytest.raises(ConnectError, match=reason):
                await link(f"nats://127.0.0.1:{impostor.sockets[0].getsockname()[1]}", timeout=0.5)
            assert monotonic() - began < 4

    async def test_a_silent_server_does_not_keep_us_from_the_next(self, link, server):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            for _ in range(3):
                connected = await link(f"nats://127.0.0.1:{silent.getsockname()[1]},{server.url}", timeout=5)
                await connected.ping(2)

    async def test_cancelling_leaves_nothing(self, link):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            connecting = asyncio.ensure_future(link(f"nats://127.0.0.1:{silent.getsockname()[1]}"))
            await asyncio.sleep(0.05)
            connecting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await connecting

    async def test_websockets_are_refused_clearly(self, link):
        with pytest.raises(InvalidOption, match="nats-py"):
            await link("ws://127.0.0.1:1")


class TestKilled:
    async def test_everything_comes_back(self, link, server):
        connected = await link(server.url)
        seen, other = listening(connected), listening(connected, b"b")
        await server.kill()
        await eventually(lambda: "lost" in connected._events.events)
        listening(connected, b"while.away")
        connected.send(b"PUB a.1 1\r\nx\r\n")
        assert not connected.send_stream(b"PUB a.2 1\r\nx\r\n")
        with pytest.raises(ConnectionLost):
            await connected.ping(1)
        await server.start()
        await eventually(restored(connected), within=15)
        await connected.ping(2)
        assert [each[0] for each in seen] == [b"a.1"]
        assert other == []

    async def test_a_ping_in_flight_fails_at_once(self, link, server):
        connected = await link(server.url)
        await server.freeze()
        ping = asyncio.ensure_future(connected.ping(15))
        await asyncio.sleep(0.05)
        await server.kill()
        with pytest.raises(ConnectionLost):
            await asyncio.wait_for(ping, 10)

    async def test_callbacks_that_raise_change_nothing(self, link, server, caplog):
        class Rude(Heard):
            def on_lost(self):
                super().on_lost()
                raise ValueError("rude")

            def on_restored(self):
                super().on_restored()
                raise ValueError("rude")

        connected = await link(server.url, heard=Rude())

        def receive(*_):
            raise asyncio.CancelledError

        connected.subscribe(b"a", None, receive)
        connected.send(b"PUB a 0\r\n\r\n")
        await connected.ping(2)
        connected._connection.leave()
        await eventually(restored(connected), within=15)
        await connected.ping(2)
        assert "receiving on a failed" in caplog.text
        assert "telling of the connection failed" in caplog.text

    async def test_two_hundred_at_once(self, link, server):
        links = await asyncio.gather(*(link(server.url) for _ in range(200)))
        seen = [listening(each) for each in links]
        await server.kill()
        await server.start()
        await eventually(lambda: all(restored(each)() for each in links), within=30)
        links[0].send(b"PUB a.x 0\r\n\r\n")
        await eventually(lambda: all(len(each) == 1 for each in seen))

    async def test_a_server_that_throws_us_out_is_not_stormed(self, link):
        met = []

        async def throw_out(reader, writer):
            met.append(monotonic())
            writer.write(b"INFO {}\r\n")
            while b"PING" not in await reader.readline():
                pass
            writer.write(b"PONG\r\n")
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(throw_out, "127.0.0.1", 0) as rude:
            connected = await link(f"nats://127.0.0.1:{rude.sockets[0].getsockname()[1]}")
            await asyncio.sleep(2)
            await connected.close()
        assert 1 < len(met) < 22


class TestFrozen:
    async def test_it_is_left_within_six_seconds_and_traffic_goes_on(self, link, server):
        connected = await link(server.url)
        seen = listening(connected)
        await connected.ping(1)
        await server.freeze()
        began = monotonic()
        await eventually(lambda: "lost" in connected._events.events, within=12)
        assert monotonic() - began > 3
        connected.send(b"PUB a.late 0\r\n\r\n")
        await server.thaw()
        await eventually(lambda: [each[0] for each in seen] == [b"a.late"], within=15)

    async def test_our_own_late_loop_proves_nothing(self, link, server, monkeypatch):
        import time  # noqa: PLC0415 - the only test that may block the loop

        monkeypatch.setattr("broker.backends.nats.wire.link.PING_EVERY", 0.1)
        connected = await link(server.url)
        for _ in range(4):
            time.sleep(0.5)  # noqa: ASYNC251 - what a careless handler does
            await asyncio.sleep(0.12)
        await asyncio.sleep(0.5)
        assert connected._events.events == []

    async def test_pings_time_out_and_cost_nothing(self, link, server):
        connected = await link(server.url)
        await server.freeze()
        with pytest.raises(RequestTimeout):
            await connected.ping(0.1)
        await server.thaw()
        await connected.ping(2)
        assert connected._events.events == []

    async def test_close_is_bounded(self, link, server):
        connected = await link(server.url)
        await server.freeze()
        for _ in range(100):
            connected.send(b"PUB a 100000\r\n%b\r\n" % (b"x" * 100_000))
            await asyncio.sleep(0)
        began = monotonic()
        await connected.close()
        assert monotonic() - began < 5
        await server.thaw()


@pytest.mark.xdist_group("cluster")
class TestCluster:
    @pytest.mark.slow
    @pytest.mark.timeout(60)
    async def test_one_address_leads_to_all_and_each_can_go(self, link):
        async with Cluster(sync_interval=None) as cluster:
            connected = await link(cluster.nodes[0].url)
            await eventually(lambda: len(connected._dialer.pool) == 3)
            assert connected.clustered
            seen = listening(connected)
            for times in (1, 2):
                left = connected.server
                node = next(each for each in cluster.nodes if str(each.port) == left.rpartition(":")[2])
                await node.kill()
                await eventually(restored(connected, times), within=15)
                assert connected.server != left
                connected.send(b"PUB a.%d 0\r\n\r\n" % times)
                await eventually(lambda wanted=times: len(seen) == wanted)
                await node.start()
                await cluster.ready()

    @pytest.mark.slow
    @pytest.mark.timeout(60)
    async def test_a_lame_duck_is_left_before_it_goes(self, link):
        async with Cluster(sync_interval=None, config='lame_duck_grace_period: "1s"') as cluster:
            connected = await link(cluster.nodes[0].url)
            await eventually(lambda: len(connected._dialer.pool) == 3)
            cluster.nodes[0].lame_duck()
            await eventually(restored(connected))
            assert cluster.nodes[0].running
            assert not connected.server.endswith(f":{cluster.nodes[0].port}")
            await connected.ping(2)


class TestLameDuckAlone:
    """A server that is about to stop, played by hand, so that it can know of others that are not there (yet)."""

    @staticmethod
    async def play(reader, writer, others):
        urls = b",".join(b'"127.0.0.1:%d"' % each for each in others)
        writer.write(b'INFO {"headers":true,"max_payload":1048576}\r\n')
        greeted = False
        with suppress(ConnectionError):
            while line := await reader.readline():
                if line == b"PING\r\n":
                    writer.write(b"PONG\r\n")
                    if not greeted:
                        writer.write(b'INFO {"max_payload":1048576,"ldm":true,"connect_urls":[%b]}\r\n' % urls)
                    greeted = True
        writer.close()

    async def test_it_is_used_until_another_is_there(self, link):
        (port,) = free_ports(1, "127.0.0.1")
        async with await asyncio.start_server(lambda *pair: self.play(*pair, [port]), "127.0.0.1", 0) as lame:
            connected = await link(f"nats://127.0.0.1:{lame.sockets[0].getsockname()[1]}")
            seen = listening(connected)
            await never(lambda: connected._events.events, during=0.6)
            await connected.ping(5)
            async with NatsServer(port=port, sync_interval=None):
                await eventually(restored(connected), within=15)
                assert connected._events.events == ["lost", "restored"]
                assert connected.server == f"127.0.0.1:{port}"
                connected.send(b"PUB a.x 0\r\n\r\n")
                await eventually(lambda: seen)
                await connected.close()

    async def test_one_that_breaks_off_meanwhile_is_left_like_any_other(self, link):
        (port,) = free_ports(1, "127.0.0.1")
        async with await asyncio.start_server(lambda *pair: self.play(*pair, [port]), "127.0.0.1", 0) as lame:
            connected = await link(f"nats://127.0.0.1:{lame.sockets[0].getsockname()[1]}")
            await never(lambda: connected._events.events, during=0.2)
            connected._connection.leave()
            lame.close()
            async with NatsServer(port=port, sync_interval=None):
                await eventually(lambda: connected.server == f"127.0.0.1:{port}" and connected._up, within=15)
                await connected.ping(5)
                assert connected._events.events == ["lost", "restored"]
                await connected.close()

    async def test_closing_ends_the_search(self, link):
        async with await asyncio.start_server(lambda *pair: self.play(*pair, [1]), "127.0.0.1", 0) as lame:
            connected = await link(f"nats://127.0.0.1:{lame.sockets[0].getsockname()[1]}")
            await eventually(lambda: connected._moving is not None)
            await connected.close()
            assert connected._moving.done()


class TestTurnedAway:
    async def test_permissions_keep_their_case_and_cost_no_connection(self, link):
        allowed = 'permissions: { publish: ["a.>"], subscribe: ["a.>"] }'
        users = f"authorization {{ users: [ {{ user: u, password: p, {allowed} }} ] }}"
        async with NatsServer(config=users) as server:
            connected = await link(server.url.replace("//", "//u:p@"))
            connected.send(b"PUB Secret.Room 0\r\n\r\n")
            listening(connected, b"Other.Room")
            await connected.ping(2)
            assert [each[:2] for each in connected._events.events] == [
                ("publish", "Secret.Room"),
                ("subscribe", "Other.Room"),
            ]

    @pytest.mark.parametrize(
        "frame", [b"PUB " + b"s" * 5000 + b" 0\r\n\r\n", b"PUB a 2000000\r\n" + b"x" * 2_000_000 + b"\r\n", b"WHAT\r\n"]
    )
    async def test_what_the_server_hates_costs_one_connection_only(self, link, server, frame):
        connected = await link(server.url)
        seen = listening(connected)
        connected.send(frame)
        await eventually(restored(connected), within=15)
        connected.send(b"PUB a.x 0\r\n\r\n")
        await eventually(lambda: seen)
        assert not connected.closed

    async def test_no_echo(self, link, server):
        quiet, other = await link(server.url, echo=False), await link(server.url)
        seen, overheard = listening(quiet), listening(other)
        await other.ping(2)
        quiet.send(b"PUB a.x 0\r\n\r\n")
        await eventually(lambda: overheard)
        await never(lambda: seen, during=0.1)


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_nothing_is_left_behind(server_url, loop):
    async def everything():
        options = ConnectOptions(url=server_url)
        link = WireLink(options, parse(options), Heard(), Stats())
        await link.connect()
        seen = listening(link)
        for _ in range(1000):
            link.send(b"PUB a.x 1000\r\n%b\r\n" % (b"x" * 1000))
        await link.ping(2)
        assert len(seen) == 1000
        await link.force_reconnect()
        await eventually(restored(link))
        await link.close()
        await link.close()
        with pytest.raises(ConnectionLost):
            await link.ping(1)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(everything())
    gc.collect()


@pytest.fixture
def server_url():
    server = NatsServer(sync_interval=None)
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as keeper:
        keeper.run(server.start())
        try:
            yield server.url
        finally:
            keeper.run(server.stop())
