"""The pull engine against a real server: credit, settling, leaving."""

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime
from time import monotonic

import pytest

from broker.backends.nats import open_backend
from broker.contracts.envelopes import Record
from broker.contracts.errors import (
    AckUnknown,
)
from broker.contracts.headers import Headers
from broker.contracts.options import ConnectOptions, ConsumerOptions
from broker.testing.waiting import eventually
from tests.orders import ORDERS, WORKER, fill, numbers, record, settled, take

pytestmark = pytest.mark.nats


class TestFetch:
    async def test_it_tells_all_there_is_to_know(self, backend):
        headers = Headers([("X-Room", "1"), ("X-Room", "2")])
        await backend.append(Record("orders.eu", b"body", headers, "id-1"), timeout=5)
        await fill(backend, 1)
        source = await backend.open_consumer(WORKER)
        first = (await source.fetch(1, timeout=5))[0]
        assert (first.subject, first.data, first.stream, first.consumer) == ("orders.eu", b"body", "ORDERS", "worker")
        assert (first.sequence, first.attempt, first.pending, first.consumer_sequence) == (1, 1, 1, 1)
        assert abs(first.timestamp_ns / 1e9 - datetime.now(UTC).timestamp()) < 60
        assert first.headers.pairs == (("Nats-Msg-Id", "id-1"), ("X-Room", "1"), ("X-Room", "2"))
        await source.close()

    async def test_it_is_empty_in_time(self, backend):
        source = await backend.open_consumer(WORKER)
        began = monotonic()
        assert await source.fetch(10, timeout=0.2) == []
        assert 0.15 < monotonic() - began < 4
        await source.close()

    async def test_what_comes_later_wakes_it(self, backend):
        source = await backend.open_consumer(WORKER)
        assert await source.fetch(10, timeout=0.05) == []
        fetching = asyncio.ensure_future(source.fetch(10, timeout=5))
        await fill(backend, 1)
        began = monotonic()
        assert numbers(await fetching) == [0]
        assert monotonic() - began < 2.5
        await source.close()

    async def test_cancelling_loses_nothing(self, backend):
        source = await backend.open_consumer(WORKER)
        seen = []
        for number in range(50):
            fetching = asyncio.ensure_future(source.fetch(10, timeout=5))
            await asyncio.sleep(0)
            await fill(backend, 1, first=number)
            fetching.cancel()
            try:
                seen += await fetching
            except asyncio.CancelledError:
                continue
        while len(seen) < 50:
            seen += await source.fetch(10, timeout=5)
        assert [each.attempt for each in seen] == [1] * 50
        assert numbers(seen) == list(range(50))
        await source.ack(seen)
        await eventually(lambda: settled(backend, 50))
        await source.close()

    async def test_two_workers_never_hold_more_than_their_room(self, backend, nats_server):
        await fill(backend, 600)
        other = await open_backend(ConnectOptions(url=nats_server.url))
        sources = [await each.open_consumer(WORKER) for each in (backend, other)]
        seen = []

        async def work(source, room):
            while len(seen) < 600:
                deliveries = await source.fetch(room, timeout=0.2)
                intake = source._intake
                assert len(deliveries) + len(intake.buffer) + intake.owed <= room
                seen.extend(deliveries)
                await source.ack(deliveries)

        await asyncio.gather(work(sources[0], 7), work(sources[1], 40))
        assert sorted(numbers(seen)) == list(range(600))
        for source in sources:
            await source.close()
        await other.close()

    async def test_a_thousand_fetches_leave_nothing_behind(self, backend):
        await fill(backend, 1000)
        source = await backend.open_consumer(WORKER)
        tasks, timers = len(asyncio.all_tasks()), len(backend._session.replies._calls)
        for _ in range(1000):
            await source.ack(await source.fetch(1, timeout=5))
        assert len(asyncio.all_tasks()) <= tasks + 1
        assert len(backend._session.replies._calls) <= timers + 1
        await source.close()

    async def test_a_limit_of_the_consumer_is_kept_to(self, backend):
        config = {"name": "worker", "durable_name": "worker", "ack_policy": "explicit"}
        config |= {"max_batch": 3, "max_expires": 2_000_000_000}
        await backend._admin._api.call(
            "CONSUMER.CREATE.ORDERS.worker", {"stream_name": "ORDERS", "config": config, "action": "create"}
        )
        await fill(backend, 5)
        source = await backend.open_consumer(ConsumerOptions(durable="worker", stream="ORDERS", ensure="bind"))
        seen = []
        while len(seen) < 5:
            seen += await source.fetch(100, timeout=5)
        assert (source._intake._largest, source._intake._expires) == (3, 2.0)
        await source.close()


class TestSettle:
    async def test_a_batch_is_acked(self, backend):
        await fill(backend, 100)
        source = await backend.open_consumer(WORKER)
        seen = []
        while len(seen) < 100:
            seen += await source.fetch(100, timeout=5)
        await source.ack(seen)
        await eventually(lambda: settled(backend, 100))
        await source.close()

    async def test_nak_waits_as_long_as_it_was_told(self, backend):
        await fill(backend, 1)
        source = await backend.open_consumer(WORKER)
        first = (await source.fetch(1, timeout=5))[0]
        began = monotonic()
        await source.nak(first, delay=0.3)
        again = (await source.fetch(1, timeout=5))[0]
        assert 0.25 < monotonic() - began < 4
        assert (again.sequence, again.attempt) == (1, 2)
        await source.nak(again, delay=0)
        assert (await source.fetch(1, timeout=5))[0].attempt == 3
        await source.close()

    async def test_term_ends_it(self, backend):
        await fill(backend, 1)
        source = await backend.open_consumer(WORKER)
        await source.term((await source.fetch(1, timeout=5))[0], reason="no such\r\nplayer")
        await eventually(lambda: settled(backend, 1))
        await source.close()

    async def test_why_it_was_ended_is_on_the_wire(self, backend):
        told, subject = [], "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.ORDERS.worker"
        interest = await backend.subscribe(subject, lambda each: told.append(json.loads(each.data)), queue=None)
        await fill(backend, 1)
        source = await backend.open_consumer(WORKER)
        await source.term((await source.fetch(1, timeout=5))[0], reason="no such\r\nplayer")
        await eventually(lambda: told)
        assert [(each["stream_seq"], each["reason"]) for each in told] == [(1, "no such player")]
        await interest.stop()
        await source.close()

    async def test_extend_holds_it(self, backend):
        await fill(backend, 1)
        source = await backend.open_consumer(replace(WORKER, ack_wait=1.2))
        held = await source.fetch(1, timeout=5)
        for _ in range(8):
            await asyncio.sleep(0.2)
            await source.extend(held)
        assert await source.fetch(1, timeout=0.1) == []
        assert (await source.fetch(1, timeout=5))[0].attempt == 2
        await source.close()

    async def test_what_waits_in_the_buffer_is_extended(self, backend):
        await fill(backend, 2)
        options = replace(WORKER, ack_wait=1.2)
        source, other = await backend.open_consumer(options), await backend.open_consumer(options)
        await source.ack(await source.fetch(1, timeout=5))
        source._intake.top_up(1)
        await eventually(lambda: source._intake.buffer)
        assert await other.fetch(1, timeout=1.6) == []
        assert (await source.fetch(1, timeout=5))[0].attempt == 1
        await source.close()
        await other.close()

    async def test_a_confirmed_ack_is_known(self, backend):
        await fill(backend, 1)
        source = await backend.open_consumer(WORKER)
        held = (await source.fetch(1, timeout=5))[0]
        await source.confirm_ack(held, timeout=2)
        assert await settled(backend, 1)
        await backend.delete_consumer("ORDERS", "worker")
        with pytest.raises(AckUnknown):
            await source.confirm_ack(held, timeout=0.5)
        await source.close()

    async def test_settling_works_after_close(self, backend):
        await fill(backend, 1)
        source = await backend.open_consumer(WORKER)
        held = await source.fetch(1, timeout=5)
        await source.close()
        await source.ack(held)
        await eventually(lambda: settled(backend, 1))

    async def test_a_subject_that_is_not_text_is_handed_out_all_the_same(self, backend, nats_server):
        source = await backend.open_consumer(WORKER)
        reader, writer = await asyncio.open_connection("127.0.0.1", nats_server.port)
        writer.write(b"CONNECT {}\r\nPUB orders.\xff 2\r\n17\r\nPING\r\n")
        while await reader.readline() != b"PONG\r\n":
            pass
        writer.close()
        (odd,) = await source.fetch(1, timeout=5)
        assert (odd.subject, odd.data) == ("orders.\ufffd", b"17")
        await source.ack([odd])
        await fill(backend, 1)
        assert numbers(await source.fetch(1, timeout=5)) == [0]
        await source.close()

    async def test_one_who_does_not_fetch_keeps_nothing_from_the_others(self, backend):
        busy = await backend.open_consumer(replace(WORKER, ack_wait=0.6))
        assert list(await busy.fetch(100, timeout=0.05)) == []
        await fill(backend, 20)
        other = await backend.open_consumer(replace(WORKER, ack_wait=0.6))
        seen = set()

        async def all_are_seen():
            got = await other.fetch(100, timeout=1)
            await other.ack(got)
            seen.update(numbers(got))
            return seen == set(range(20))

        await eventually(all_are_seen, within=15)
        await asyncio.sleep(2.5)  # the pull that busy had out is called back as well
        await fill(backend, 5, first=20)
        assert numbers(await other.fetch(100, timeout=5))[:1] == [20]
        await busy.close()
        await other.close()

    async def test_a_stream_made_anew_is_read_from_its_beginning(self, backend):
        source = await backend.open_consumer(WORKER)
        await fill(backend, 5)
        await source.ack(await take(source, 5))
        await eventually(lambda: source.resume_sequence == 6)
        await backend.delete_stream("ORDERS")
        await backend.create_stream(ORDERS)
        await fill(backend, 8)
        again = await backend.open_consumer(replace(WORKER, start=source.resume_sequence))
        assert numbers(await take(again, 8)) == list(range(8))
        await again.close()
        await source.close()

    async def test_the_resume_sequence_follows_the_group(self, backend):
        await fill(backend, 10)
        source = await backend.open_consumer(WORKER)
        assert source.resume_sequence == 1
        await source.ack((await take(source, 4))[:3])
        await eventually(lambda: source.resume_sequence == 4)
        await source.close()


class TestLeaving:
    async def test_what_was_not_fetched_is_given_back(self, backend):
        await fill(backend, 50)
        source = await backend.open_consumer(WORKER)
        kept = await source.fetch(1, timeout=5)
        source._intake.top_up(40)
        await eventually(lambda: len(source._intake.buffer) >= 40)
        await source.close()
        other = await backend.open_consumer(WORKER)
        began, seen = monotonic(), []
        while len(seen) < 49:
            seen += await other.fetch(50, timeout=5)
        assert monotonic() - began < 4
        assert sorted(numbers(seen)) == list(range(1, 50))
        await other.ack([*seen, *kept])
        await eventually(lambda: settled(backend, 50))
        await other.close()

    async def test_leaving_a_flood_lets_nothing_wait(self, backend):
        """Messages keep coming while workers come and go: whatever one did not take, the next one gets soon."""
        seen = set()

        async def flood():
            for number in range(1500):
                await backend.append(record(number), timeout=5)

        flooding = asyncio.ensure_future(flood())
        while not flooding.done():
            source = await backend.open_consumer(replace(WORKER, ack_wait=20))
            deliveries = await source.fetch(30, timeout=1)
            await source.close()
            await source.ack(deliveries)
            seen.update(numbers(deliveries))
        source, began = await backend.open_consumer(replace(WORKER, ack_wait=20)), monotonic()
        while len(seen) < 1500 and monotonic() - began < 15:
            deliveries = await source.fetch(500, timeout=1)
            await source.ack(deliveries)
            seen.update(numbers(deliveries))
        assert len(seen) == 1500
        await source.close()

    async def test_an_unnamed_consumer_goes_with_its_source(self, backend):
        source = await backend.open_consumer(ConsumerOptions(filters=["orders.>"], acks=False))
        assert [each.name async for each in backend.list_consumers("ORDERS")] == [source.consumer]
        await source.close()
        await source.close()
        assert [each.name async for each in backend.list_consumers("ORDERS")] == []
