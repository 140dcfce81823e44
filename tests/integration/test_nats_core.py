"""The core tier on a real server, on both event loops: who gets what, and that nothing is left behind."""

import asyncio
import gc
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from functools import partial
from time import monotonic

import pytest
import pytest_asyncio
import uvloop

from broker.backends.nats import open_backend
from broker.contracts.envelopes import Record
from broker.contracts.errors import (
    BrokerClosed,
    BrokerError,
    InvalidOption,
    InvalidSubject,
    NoResponders,
    PayloadTooLarge,
    RequestTimeout,
)
from broker.contracts.headers import Headers
from broker.contracts.options import ConnectOptions, ConsumerOptions, StreamOptions
from broker.contracts.status import Status
from broker.server import Cluster, NatsServer
from broker.testing.waiting import eventually

pytestmark = pytest.mark.nats


@pytest_asyncio.fixture
async def connect(nats_server, link):
    opened = []

    async def connect(url=None, **options):
        opened.append(await open_backend(ConnectOptions(url=url or nats_server.url, link=link, **options)))
        return opened[-1]

    yield connect
    for backend in opened:
        await backend.close()


class TestMessages:
    async def test_they_arrive_in_order_and_whole(self, connect):
        room, player, seen = await connect(), await connect(), []
        await player.subscribe("core.*.state", seen.append, queue=None)
        for number in range(2000):
            room.publish("core.1.state", b"%d" % number, None)
        await eventually(lambda: len(seen) == 2000)
        assert [each.data for each in seen] == [b"%d" % number for number in range(2000)]
        assert {(each.subject, each.headers, each.reply_to) for each in seen} == {("core.1.state", None, None)}

    async def test_sizes_from_nothing_to_the_limit(self, connect):
        room, player, seen = await connect(), await connect(), []
        await player.subscribe("core.size", seen.append, queue=None)
        sizes = [0, 1, 4095, 4096, 65_535, 200_000, room.max_payload]
        for size in sizes:
            room.publish("core.size", b"x" * size, None)
        await eventually(lambda: len(seen) == len(sizes))
        assert [len(each.data) for each in seen] == sizes
        with pytest.raises(PayloadTooLarge) as caught:
            room.publish("core.size", b"x" * (room.max_payload + 1), None)
        assert (caught.value.size, caught.value.limit) == (room.max_payload + 1, room.max_payload)

    async def test_headers_keep_every_value(self, connect):
        room, seen = await connect(), []
        await room.subscribe("core.headers", seen.append, queue=None)
        headers = Headers([("X-Room", "1"), ("x-room", "2"), ("Emoji", "🎲"), ("Empty", "")])
        room.publish("core.headers", b"body", headers, "reply.here")
        await eventually(lambda: seen)
        assert seen[0].headers.pairs == headers.pairs
        assert (seen[0].data, seen[0].reply_to) == (b"body", "reply.here")

    async def test_headers_are_counted_to_the_byte(self, connect):
        room, seen = await connect(), []
        await room.subscribe("core.headers", seen.append, queue=None)
        headers = Headers([("A", "b")])
        body = b"x" * (room.max_payload - len(b"NATS/1.0\r\nA: b\r\n\r\n"))
        room.publish("core.headers", body, headers)
        await eventually(lambda: seen)
        with pytest.raises(PayloadTooLarge):
            room.publish("core.headers", body + b"x", headers)
        with pytest.raises(PayloadTooLarge):
            await room.request("core.headers", body + b"x", headers, timeout=1)
        await room.flush(timeout=2)
        assert room.stats.reconnects == 0

    async def test_a_group_shares(self, connect):
        room, workers, seen = await connect(), [await connect() for _ in range(3)], Counter()

        def count(name):
            return lambda _: seen.update([name])

        for name, worker in enumerate(workers):
            await worker.subscribe("core.work", count(name), queue="crew")
        for _ in range(300):
            room.publish("core.work", b"", None)
        await eventually(lambda: sum(seen.values()) == 300)
        assert len(seen) == 3

    async def test_what_raises_costs_no_connection(self, connect, caplog):
        room, seen = await connect(), []

        def fragile(envelope):
            seen.append(envelope)
            raise ValueError("a bug")

        await room.subscribe("core.bug", fragile, queue=None)
        room.publish("core.bug", b"1", None)
        room.publish("core.bug", b"2", None)
        await eventually(lambda: len(seen) == 2)
        await room.flush(timeout=2)
        assert "receiving on core.bug failed" in caplog.text

    @pytest.mark.parametrize("subject", ["", "a b", "a\r\nPUB b 0", "a..b", "a.*", "a.>"])
    async def test_what_is_no_subject_never_reaches_the_wire(self, connect, subject):
        room = await connect()
        with pytest.raises(InvalidSubject):
            room.publish(subject, b"", None)
        with pytest.raises(InvalidSubject):
            await room.request(subject, b"", None, timeout=1)


class TestRequests:
    async def test_a_reply(self, connect):
        asker, responder = await connect(), await connect()

        def answer(envelope):
            responder.publish(envelope.reply_to, envelope.data * 2, Headers([("A", "1")]))

        await responder.subscribe("core.double", answer, queue=None)
        replies = await asyncio.gather(*(asker.request("core.double", b"%d" % n, None, timeout=5) for n in range(200)))
        assert [each.data for each in replies] == [b"%d" % n * 2 for n in range(200)]
        assert replies[0].headers["a"] == "1"
        assert asker.stats.requests == 200

    async def test_nobody_there_and_nobody_answering(self, connect):
        asker = await connect()
        began = monotonic()
        with pytest.raises(NoResponders):
            await asker.request("core.nobody", b"", None, timeout=5)
        assert monotonic() - began < 2.5
        await asker.subscribe("core.silent", lambda _: None, queue=None)
        with pytest.raises(RequestTimeout):
            await asker.request("core.silent", b"", None, timeout=0.1)
        assert asker.stats.request_timeouts == 1

    async def test_a_cancelled_one_leaves_nothing(self, connect):
        asker = await connect()
        await asker.subscribe("core.silent", lambda _: None, queue=None)
        request = asyncio.ensure_future(asker.request("core.silent", b"", None, timeout=5))
        await asyncio.sleep(0.02)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        assert asker._session.replies._calls == {}

    async def test_many_time_outs_keep_their_own_time(self, connect):
        asker = await connect()
        await asker.subscribe("core.silent", lambda _: None, queue=None)

        async def timed(timeout):
            began = monotonic()
            with pytest.raises(RequestTimeout):
                await asker.request("core.silent", b"", None, timeout=timeout)
            return monotonic() - began

        wanted = [0.4, 0.1, 0.3, 0.2]
        for took, timeout in zip(await asyncio.gather(*map(timed, wanted)), wanted, strict=True):
            assert timeout <= took < timeout + 3

    async def test_no_responders_arrive_at_an_own_inbox(self, connect):
        asker, seen = await connect(), []
        inbox = asker.new_inbox()
        await asker.subscribe(inbox, seen.append, queue=None)
        asker.publish("core.nobody", b"", None, inbox)
        await eventually(lambda: seen)
        assert seen[0].headers.status == 503


class TestLifecycle:
    async def test_nothing_is_sent_after_close(self, connect):
        backend = await connect()
        interest = await backend.subscribe("core.x", lambda _: None, queue=None)
        await backend.close()
        await backend.close()
        await interest.stop()
        assert backend.board.status is Status.CLOSED
        for call in (
            backend.request("core.x", b"", None, timeout=1),
            backend.flush(timeout=1),
            backend.subscribe("core.x", lambda _: None, queue=None),
            backend.writable(),
            backend.stream_info("S"),
            backend.open_consumer(ConsumerOptions(durable="d", stream="S", ensure="bind")),
        ):
            with pytest.raises(BrokerClosed):
                await call
        with pytest.raises(BrokerClosed):
            backend.publish("core.x", b"", None)

    async def test_what_was_published_before_close_is_sent(self, connect):
        room, player, seen = await connect(), await connect(), []
        await player.subscribe("core.last", seen.append, queue=None)
        for _ in range(10):
            room.publish("core.last", b"x" * 10_000, None)
        await room.close()
        await eventually(lambda: len(seen) == 10)
        assert room.stats.dropped_outbound == 0

    async def test_a_flush_that_was_cancelled_costs_no_connection(self, connect):
        backend = await connect()
        for _ in range(20):
            flushing = asyncio.ensure_future(backend.flush(timeout=5))
            await asyncio.sleep(0)
            flushing.cancel()
            await asyncio.wait({flushing})
        await backend.flush(timeout=2)
        assert backend.stats.reconnects == 0

    async def test_a_forced_reconnect_keeps_subscriptions(self, connect):
        backend, seen = await connect(), []
        await backend.subscribe("core.again", seen.append, queue=None)
        await backend._session.link.force_reconnect()
        await eventually(lambda: backend.stats.reconnects == 1)
        backend.publish("core.again", b"", None)
        await eventually(lambda: seen)

    async def test_an_embedded_server_comes_and_goes_with_its_backend(self, connect, tmp_path):
        backend = await connect(f"embedded://{tmp_path}")
        await backend.create_stream(StreamOptions("S", ["s.>"]))
        server = backend._server
        assert server.running
        await backend.close()
        assert not server.running
        backend = await connect(f"embedded://{tmp_path}")
        assert (await backend.stream_info("S")).name == "S"
        with pytest.raises(InvalidOption):
            await open_backend(ConnectOptions(url="embedded://relative/dir"))


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
class TestLoops:
    @staticmethod
    async def everything(url, link):
        backend, seen = await open_backend(ConnectOptions(url=url, link=link)), []
        await backend.subscribe("core.loop", seen.append, queue=None)
        for _ in range(1000):
            backend.publish("core.loop", b"x" * 1000, None)
        with pytest.raises(NoResponders):
            await backend.request("core.nobody", b"", None, timeout=1)
        await eventually(lambda: len(seen) == 1000)
        await backend._session.link.force_reconnect()
        await eventually(lambda: backend.board.status is Status.CONNECTED)
        await backend.flush(timeout=2)
        await backend.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    @staticmethod
    async def frozen(server, link):
        backend = await open_backend(ConnectOptions(url=server.url, link=link, outbound_limit=1 << 20))
        await server.freeze()
        for _ in range(200):
            for _ in range(100):
                backend.publish("core.loop", b"x" * 1000, None)
            await asyncio.sleep(0)
        assert backend.stats.dropped_outbound > 10_000
        await backend.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    def test_nothing_is_left_behind(self, nats_server, loop, link):
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(self.everything(nats_server.url, link))
        gc.collect()

    @pytest.mark.fault
    def test_nothing_is_left_behind_at_a_frozen_server(self, loop, link):
        server = NatsServer(sync_interval=None)
        with asyncio.Runner(loop_factory=asyncio.new_event_loop) as keeper:
            keeper.run(server.start())
            try:
                with asyncio.Runner(loop_factory=loop) as runner:
                    runner.run(self.frozen(server, link))
            finally:
                keeper.run(server.thaw())
                keeper.run(server.stop())
        gc.collect()


async def stored(backend):
    """Whether a message could be stored: there may be no leader yet."""
    try:
        return await backend.append(Record("orders.new", b"", None, "id"), timeout=2)
    except BrokerError:
        return None


async def created(backend):
    """Whether the stream is there: a cluster that has only just met may not answer in time."""
    with suppress(RequestTimeout):
        await backend.create_stream(StreamOptions("ORDERS", ["orders.>"], replicas=3))
        return True


async def opened(backend, options):
    """Whether the consumer is there."""
    with suppress(RequestTimeout):
        await (await backend.open_consumer(options)).close()
        return True


@pytest.mark.xdist_group("cluster")
@pytest.mark.fault
@pytest.mark.slow
class TestCluster:
    @pytest.mark.parametrize("ensure", ["verify", "bind"])
    @pytest.mark.timeout(60)
    async def test_a_fetch_outlives_the_leader_of_its_consumer(self, connect, ensure):
        async with Cluster(sync_interval=None) as cluster:
            backend = await connect(",".join(each.url for each in cluster.nodes))
            await eventually(partial(created, backend), within=30)
            options = ConsumerOptions(durable="worker", filters=["orders.>"], stream="ORDERS")
            await eventually(partial(opened, backend, options), within=30)
            source = await backend.open_consumer(replace(options, ensure=ensure))
            fetching = asyncio.ensure_future(source.fetch(10, timeout=30))
            await asyncio.sleep(0.1)
            leader = (await backend._admin.raw_consumer("ORDERS", "worker"))["cluster"]["leader"]
            node = next(each for each in cluster.nodes if each.settings.name == leader)
            if ensure == "verify":
                await node.kill()
            else:
                await node.stop()
            await eventually(partial(stored, backend), within=20)
            assert len(await fetching) == 1
            await source.close()
            await backend.close()

    async def test_a_lame_duck_is_left_for_another_server(self, connect):
        async with Cluster(sync_interval=None, config='lame_duck_grace_period: "1s"') as cluster:
            backend, seen = await connect(",".join(each.url for each in cluster.nodes)), []
            await backend.subscribe("core.cluster", seen.append, queue=None)
            link = backend._session.link
            left = link.server
            next(each for each in cluster.nodes if each.url.endswith(left.rpartition(":")[2])).lame_duck()
            await eventually(lambda: backend.stats.reconnects == 1)
            assert link.server != left
            backend.publish("core.cluster", b"", None)
            await eventually(lambda: seen)
            await backend.close()
