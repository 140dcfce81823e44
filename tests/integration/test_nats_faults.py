"""What happens to calls in flight when the server dies, freezes or restarts."""

import asyncio
from time import monotonic

import pytest

from broker.contracts.errors import (
    BrokerClosed,
    ConnectionLost,
    ConsumerNotFound,
    NoResponders,
)
from broker.contracts.options import StreamOptions
from broker.contracts.status import Status
from broker.testing.waiting import eventually, never
from tests.door import door_to
from tests.orders import a_consumer, fill, record

pytestmark = [pytest.mark.nats, pytest.mark.fault]


class TestServerKilled:
    async def test_an_append_in_flight_fails_at_once(self, server, connect):
        backend = await connect(server)
        await backend.create_stream(StreamOptions("ORDERS", ["orders.>"]))
        await server.freeze()
        append = backend.append(record(), timeout=15)
        await asyncio.sleep(0.05)
        began = monotonic()
        await server.kill()
        with pytest.raises(ConnectionLost):
            await append
        assert monotonic() - began < 5

    async def test_what_failed_is_not_sent_later(self, server, connect):
        backend = await connect(server)
        await backend.create_stream(StreamOptions("ORDERS", ["orders.>"]))
        await server.kill()
        await eventually(lambda: backend.board.status is Status.RECONNECTING)
        with pytest.raises(ConnectionLost):
            await backend.append(record(), timeout=5)
        await server.start()
        await eventually(lambda: backend.board.status is Status.CONNECTED)
        await fill(backend, 1, first=1)
        assert (await backend.stream_info("ORDERS")).messages == 1

    async def test_a_request_in_flight_fails_at_once(self, server, connect):
        asker, silent = await connect(server), await connect(server)
        await silent.subscribe("ask", lambda _: None, queue=None)
        request = asyncio.ensure_future(asker.request("ask", b"", None, timeout=15))
        await asyncio.sleep(0.05)
        began = monotonic()
        await server.kill()
        with pytest.raises(ConnectionLost):
            await request
        assert monotonic() - began < 5

    async def test_a_request_waits_for_the_connection(self, server, connect):
        backend = await connect(server)
        await server.kill()
        await eventually(lambda: backend.board.status is Status.RECONNECTING)
        request = asyncio.ensure_future(backend.request("nobody", b"", None, timeout=10))
        await asyncio.sleep(0.05)
        await server.start()
        with pytest.raises(NoResponders):
            await request

    async def test_subscriptions_come_back(self, server, connect):
        backend, seen = await connect(server), []
        interest = await backend.subscribe("room.*", seen.append, queue=None)
        dropped = await backend.subscribe("room.*", seen.append, queue=None)
        await server.kill()
        await eventually(lambda: backend.board.status is Status.RECONNECTING)
        await dropped.stop()
        await server.start()
        await eventually(lambda: backend.board.status is Status.CONNECTED)
        assert backend.stats.reconnects == 1
        backend.publish("room.1", b"x", None)
        await eventually(lambda: seen)
        assert len(seen) == 1
        await interest.stop()
        backend.publish("room.1", b"x", None)
        await backend.flush(timeout=2)
        assert len(seen) == 1

    async def test_core_messages_wait_for_the_connection(self, server, connect):
        backend, seen = await connect(server), []
        await backend.subscribe("room.*", seen.append, queue=None)
        await server.kill()
        await eventually(lambda: backend.board.status is Status.RECONNECTING)
        for number in range(10):
            backend.publish("room.1", b"%d" % number, None)
        await server.start()
        await eventually(lambda: len(seen) == 10)
        assert [each.data for each in seen] == [b"%d" % n for n in range(10)]
        assert backend.stats.dropped_outbound == 0

    async def test_a_fetch_goes_on_after_a_restart_on_the_same_store(self, server, connect):
        backend = await connect(server)
        source = await a_consumer(backend)
        fetching = asyncio.ensure_future(source.fetch(10, timeout=15))
        await asyncio.sleep(0.1)
        await server.kill()
        await server.start()
        await eventually(lambda: backend.board.status is Status.CONNECTED)
        began = monotonic()
        await fill(backend, 1)
        assert len(await fetching) == 1
        assert monotonic() - began < 5
        await source.close()

    async def test_a_consumer_deleted_meanwhile_is_noticed_after_the_reconnect(self, server, connect):
        other = await connect(server)
        async with door_to(server) as door:
            backend = await connect(door)
            source = await a_consumer(backend)
            fetching = asyncio.ensure_future(source.fetch(10, timeout=15))
            await asyncio.sleep(0.05)
            door.shut()
            await eventually(lambda: backend.board.status is Status.RECONNECTING)
            await other.delete_consumer("ORDERS", "worker")
            door.open = True
            with pytest.raises(ConsumerNotFound):
                await asyncio.wait_for(fetching, 10)
            await source.close()
            await backend.close()

    async def test_closing_while_there_is_no_server_takes_no_time(self, server, connect):
        backend = await connect(server)
        source = await a_consumer(backend)
        await server.kill()
        await eventually(lambda: backend.board.status is Status.RECONNECTING)
        began = monotonic()
        await source.close()
        await backend.close()
        assert monotonic() - began < 5
        assert backend.board.status is Status.CLOSED
        with pytest.raises(BrokerClosed):
            backend.publish("room.1", b"", None)

    async def test_closing_at_any_moment_of_the_search_leaves_nothing(self, server, connect):
        """Cancelling a connect in the moment it is refused must not start the search anew."""
        backends = [await connect(server) for _ in range(100)]
        await server.kill()
        await eventually(lambda: all(each.board.status is Status.RECONNECTING for each in backends))

        async def leave(backend, after):
            await asyncio.sleep(after)
            await backend.close()

        await asyncio.gather(*(leave(backend, number * 0.007) for number, backend in enumerate(backends)))


class TestServerFrozen:
    async def test_publishing_never_blocks_and_the_buffer_is_bounded(self, server, connect):
        limit = 1 << 20
        backend = await connect(server, outbound_limit=limit)
        await server.freeze()
        body, longest = b"x" * 1000, 0.0
        for _ in range(200):
            began = monotonic()
            for _ in range(100):
                backend.publish("room.1", body, None)
            longest = max(longest, monotonic() - began)
            await asyncio.sleep(0)
        assert longest < 2
        assert backend.congested
        assert backend._session.link._outbound.held <= limit
        assert backend.stats.dropped_outbound > 10_000

    async def test_traffic_resumes_with_the_newest(self, server, connect):
        backend, listener, seen = await connect(server, outbound_limit=100_000), await connect(server), []
        await listener.subscribe("room.*", seen.append, queue=None)
        await server.freeze()
        for number in range(20_000):
            backend.publish("room.1", b"%1000d" % number, None)
            if number % 500 == 0:
                await asyncio.sleep(0)
        await server.thaw()
        await eventually(lambda: seen and seen[-1].data.endswith(b" 19999"))
        assert len(seen) + backend.stats.dropped_outbound == 20_000
        assert not backend.congested

    async def test_writable_waits_until_it_thaws(self, server, connect):
        backend = await connect(server, outbound_limit=100_000)
        await server.freeze()
        for number in range(10_000):
            backend.publish("room.1", b"x" * 1000, None)
            if number % 500 == 0:
                await asyncio.sleep(0)
        waiting = asyncio.ensure_future(backend.writable())
        await never(waiting.done, during=0.1)
        await server.thaw()
        await asyncio.wait_for(waiting, 10)

    async def test_it_is_left_and_found_again(self, server, connect):
        backend = await connect(server)
        await server.freeze()
        append = backend.append(record(), timeout=15)
        backend.publish("room.1", b"x" * 500_000, None)
        began = monotonic()
        with pytest.raises(ConnectionLost):
            await append
        assert monotonic() - began < 13
        await server.thaw()
        await eventually(lambda: backend.board.status is Status.CONNECTED)

    async def test_close_takes_no_time(self, server, connect):
        backend = await connect(server)
        source = await a_consumer(backend)
        fetching = asyncio.ensure_future(source.fetch(10, timeout=15))
        await asyncio.sleep(0.05)
        await server.freeze()
        for _ in range(100):
            backend.publish("room.1", b"x" * 100_000, None)
            await asyncio.sleep(0)
        began = monotonic()
        await source.close()
        await backend.close()
        assert monotonic() - began < 8
        with pytest.raises(BrokerClosed):
            await fetching
        await server.thaw()
