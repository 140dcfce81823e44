"""The pull engine against a real server: credit, settling, leaving, repair."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from time import monotonic
from uuid import uuid4

import pytest
import pytest_asyncio

from broker.backends.nats import open_backend
from broker.backends.nats.intake import Rhythm
from broker.backends.nats.presence import Managed
from broker.backends.nats.source import NatsSource
from broker.contracts.envelopes import Expect, Record
from broker.contracts.errors import (
    AckUnknown,
    ApiError,
    ConfigDrift,
    ConsumerNotFound,
    NoResponders,
    NoStream,
    PayloadTooLarge,
    SequenceConflict,
    StreamFull,
    StreamNotFound,
)
from broker.contracts.headers import Headers
from broker.contracts.options import ConnectOptions, ConsumerOptions, StreamOptions
from broker.testing.waiting import eventually

pytestmark = pytest.mark.nats

ORDERS = StreamOptions("ORDERS", ["orders.>"])
WORKER = ConsumerOptions(durable="worker", filters=["orders.>"], ack_wait=5)


@pytest_asyncio.fixture
async def backend(nats_server, link):
    backend = await open_backend(ConnectOptions(url=nats_server.url, link=link))
    await backend.create_stream(ORDERS)
    yield backend
    async for stream in backend.list_streams():
        await backend.delete_stream(stream.name)
    await backend.close()


def record(number=0, subject="orders.new", **more):
    return Record(subject, b"%d" % number, None, f"{subject}-{number}", **more)


async def fill(backend, count, first=0):
    await asyncio.gather(*(backend.append(record(n), timeout=5) for n in range(first, first + count)))


async def take(source, count):
    """Exactly so many, in however many pieces they come."""
    taken = []
    while len(taken) < count:
        taken += await source.fetch(count - len(taken), timeout=5)
    return taken


def numbers(deliveries):
    return [int(each.data) for each in deliveries]


async def info(backend):
    return await backend.consumer_info("ORDERS", "worker")


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


async def settled(backend, floor):
    found = await info(backend)
    return found.ack_pending == 0 and found.ack_floor == floor


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


class TestTrouble:
    async def test_a_deleted_consumer_is_told_at_once(self, backend):
        source = await backend.open_consumer(WORKER)
        fetching = asyncio.ensure_future(source.fetch(10, timeout=10))
        await eventually(lambda: waiting(backend))
        began = monotonic()
        await backend.delete_consumer("ORDERS", "worker")
        with pytest.raises(ConsumerNotFound):
            await fetching
        assert monotonic() - began < 2.5
        with pytest.raises(ConsumerNotFound):
            await source.fetch(1, timeout=1)
        await source.close()

    @pytest.mark.parametrize("ensure", ["verify", "bind"])
    async def test_a_deleted_consumer_is_told_to_the_next_fetch(self, backend, ensure):
        await (await backend.open_consumer(WORKER)).close()
        source = await backend.open_consumer(replace(WORKER, stream="ORDERS", ensure=ensure))
        await backend.delete_consumer("ORDERS", "worker")
        began = monotonic()
        with pytest.raises(ConsumerNotFound):
            await source.fetch(1, timeout=10)
        assert monotonic() - began < 8
        await source.close()

    async def test_a_deleted_stream_is_told(self, backend):
        source = await backend.open_consumer(WORKER)
        fetching = asyncio.ensure_future(source.fetch(10, timeout=10))
        await eventually(lambda: waiting(backend))
        await backend.delete_stream("ORDERS")
        with pytest.raises((ConsumerNotFound, StreamNotFound)):
            await fetching
        await source.close()

    async def test_silence_is_noticed_and_repaired(self, backend):
        await backend.open_consumer(WORKER)
        presence = Managed(backend._admin, "ORDERS", "worker", polls=True, floor=0, ours=False)
        source = NatsSource(backend._session, presence, ack_wait=5, rhythm=Rhythm(expires=30, heartbeat=0.1))
        fetching = asyncio.ensure_future(source.fetch(10, timeout=10))
        await eventually(lambda: waiting(backend))
        # The server forgets the pull and nobody tells: as after a lost frame.
        backend._session.link.send_stream(b"UNSUB %d\r\n" % source._intake._sid)
        await fill(backend, 1)
        assert numbers(await fetching) == [0]
        await source.close()

    async def test_silence_of_a_deleted_consumer_is_told(self, backend):
        await backend.open_consumer(WORKER)
        presence = Managed(backend._admin, "ORDERS", "worker", polls=True, floor=0, ours=False)
        source = NatsSource(backend._session, presence, ack_wait=5, rhythm=Rhythm(expires=30, heartbeat=0.1))
        fetching = asyncio.ensure_future(source.fetch(10, timeout=10))
        await eventually(lambda: waiting(backend))
        backend._session.link.send_stream(b"UNSUB %d\r\n" % source._intake._sid)
        await backend.delete_consumer("ORDERS", "worker")
        with pytest.raises(ConsumerNotFound):
            await fetching
        await source.close()

    async def test_an_expired_pull_is_replaced(self, backend):
        presence_of = await backend.open_consumer(WORKER)
        await presence_of.close()
        presence = Managed(backend._admin, "ORDERS", "worker", polls=False, floor=0, ours=False)
        source = NatsSource(backend._session, presence, ack_wait=5, rhythm=Rhythm(expires=0.2, heartbeat=0.1))
        fetching = asyncio.ensure_future(source.fetch(10, timeout=5))
        await asyncio.sleep(0.7)
        await fill(backend, 1)
        assert numbers(await fetching) == [0]
        assert source._intake.owed == 9
        await source.close()

    async def test_a_push_consumer_is_refused(self, backend):
        config = {"name": "pushed", "durable_name": "pushed", "ack_policy": "explicit", "deliver_subject": "elsewhere"}
        await backend._admin._api.call(
            "CONSUMER.CREATE.ORDERS.pushed", {"stream_name": "ORDERS", "config": config, "action": "create"}
        )
        with pytest.raises(ApiError):
            await backend.open_consumer(ConsumerOptions(durable="pushed", stream="ORDERS", ensure="bind"))
        with pytest.raises(ConfigDrift) as caught:
            await backend.open_consumer(ConsumerOptions(durable="pushed", stream="ORDERS", ensure="update"))
        assert set(caught.value.differences) == {"deliver_subject"}


async def waiting(backend):
    return (await info(backend)).waiting


class TestEnsure:
    async def test_verify_names_every_field(self, backend):
        await backend.open_consumer(replace(WORKER, queue="a"))
        asked = replace(WORKER, queue="b", filters=["orders.new"], max_ack_pending=7, ack_wait=9)
        with pytest.raises(ConfigDrift) as caught:
            await backend.open_consumer(asked)
        assert caught.value.differences == {
            "filters": (("orders.new",), ("orders.>",)),
            "max_ack_pending": (7, 256),
            "ack_wait": (9, 5.0),
            "queue": ("b", "a"),
        }

    async def test_where_it_starts_is_not_compared(self, backend):
        await fill(backend, 3)
        await backend.open_consumer(WORKER)
        source = await backend.open_consumer(replace(WORKER, start="new"))
        assert numbers(await source.fetch(1, timeout=5)) == [0]
        await source.close()

    async def test_update_changes_what_it_can(self, backend):
        await backend.open_consumer(replace(WORKER, queue="a"))
        wanted = replace(WORKER, queue="b", filters=["orders.new"], max_ack_pending=7, ack_wait=9, ensure="update")
        await backend.open_consumer(wanted)
        assert (await info(backend)).config == replace(wanted, stream="ORDERS", ensure="verify")
        wanted = replace(wanted, filters=["orders.a", "orders.b"])
        await backend.open_consumer(wanted)
        assert (await info(backend)).config.filters == ("orders.a", "orders.b")

    async def test_update_says_what_it_cannot_change(self, backend):
        await backend.open_consumer(WORKER)
        with pytest.raises(ConfigDrift) as caught:
            await backend.open_consumer(replace(WORKER, acks=False, ack_wait=7, ensure="update"))
        assert set(caught.value.differences) == {"acks"}

    async def test_the_queue_names_it_when_nothing_else_does(self, backend):
        source = await backend.open_consumer(ConsumerOptions(queue="crew", filters=["orders.>"]))
        assert source.consumer == "crew"
        await source.close()
        assert (await backend.consumer_info("ORDERS", "crew")).config.queue == "crew"

    async def test_bind_asks_nothing(self, backend):
        await (await backend.open_consumer(WORKER)).close()
        asked = []
        call = backend._admin._api.call
        backend._admin._api.call = lambda *args, **kwargs: asked.append(args) or call(*args, **kwargs)
        source = await backend.open_consumer(replace(WORKER, stream="ORDERS", ensure="bind"))
        await fill(backend, 1)
        await source.ack(await source.fetch(1, timeout=5))
        await asyncio.sleep(1.2)
        await source.close()
        assert asked == []
        assert source.resume_sequence is None

    async def test_bind_looks_the_stream_up_when_it_is_not_named(self, backend):
        await (await backend.open_consumer(WORKER)).close()
        source = await backend.open_consumer(replace(WORKER, ensure="bind"))
        assert source.stream == "ORDERS"
        await source.close()

    async def test_bind_to_nothing_is_told(self, backend):
        with pytest.raises(ConsumerNotFound):
            await backend.open_consumer(replace(WORKER, stream="ORDERS", ensure="bind"))

    async def test_no_stream(self, backend):
        with pytest.raises(NoStream):
            await backend.open_consumer(ConsumerOptions(durable="worker", filters=["nobody.>"]))
        with pytest.raises(NoStream):
            await backend.open_consumer(ConsumerOptions(durable="worker", filters=["nobody.>"], stream="ORDERS"))
        with pytest.raises(StreamNotFound):
            await backend.open_consumer(ConsumerOptions(durable="worker", filters=["orders.>"], stream="NOBODY"))

    @pytest.mark.parametrize(
        ("start", "expected"),
        [("first", [0, 1, 2]), ("last", [2]), ("last_per_subject", [1, 2]), (2, [1, 2]), ("new", [])],
    )
    async def test_every_start(self, backend, start, expected):
        for number, subject in enumerate(["orders.a", "orders.b", "orders.a"]):
            await backend.append(record(number, subject), timeout=5)
        source = await backend.open_consumer(replace(WORKER, start=start))
        seen = []
        while deliveries := await source.fetch(10, timeout=0.3):
            seen += numbers(deliveries)
        assert seen == expected
        await source.close()

    async def test_a_time_as_start(self, backend):
        await fill(backend, 1)
        await asyncio.sleep(0.02)
        moment = datetime.now(UTC)
        await fill(backend, 1, first=1)
        source = await backend.open_consumer(replace(WORKER, start=moment))
        assert numbers(await source.fetch(10, timeout=5)) == [1]
        assert (await info(backend)).config.start == moment
        await source.close()


class TestAppend:
    async def test_a_repeat_is_told(self, backend):
        once = Record("orders.new", b"", None, uuid4().hex)
        first = await backend.append(once, timeout=5)
        again = await backend.append(once, timeout=5)
        assert (first.duplicate, again.duplicate) == (False, True)
        assert again.sequence == first.sequence

    async def test_order_is_kept_with_many_in_flight(self, backend):
        receipts = await asyncio.gather(*(backend.append(record(n), timeout=5) for n in range(1000)))
        assert [each.sequence for each in receipts] == list(range(1, 1001))

    @pytest.mark.parametrize(
        "expect",
        [
            Expect(last_sequence=7),
            Expect(last_subject_sequence=7),
            Expect(last_subject_sequence=0, subject_filter="orders.>"),
            Expect(last_msg_id="other"),
            Expect(stream="OTHER"),
        ],
    )
    async def test_an_expectation_that_does_not_hold(self, backend, expect):
        await fill(backend, 1)
        with pytest.raises(SequenceConflict):
            await backend.append(record(1, expect=expect), timeout=5)
        assert (await backend.stream_info("ORDERS")).messages == 1

    async def test_expectations_that_hold(self, backend):
        await fill(backend, 1)
        expect = Expect(last_sequence=1, last_subject_sequence=1, last_msg_id="orders.new-0", stream="ORDERS")
        assert (await backend.append(record(1, expect=expect), timeout=5)).sequence == 2

    async def test_no_stream_answers(self, backend):
        with pytest.raises(NoResponders):
            await backend.append(record(subject="nobody.listens"), timeout=5)

    async def test_a_full_stream(self, backend):
        await backend.create_stream(StreamOptions("SMALL", ["small.*"], max_msgs=1))
        await backend.append(record(subject="small.a"), timeout=5)
        with pytest.raises(StreamFull):
            await backend.append(record(1, subject="small.a"), timeout=5)

    async def test_too_large_for_the_stream(self, backend):
        await backend.create_stream(StreamOptions("SMALL", ["small.*"], max_msg_size=100))
        with pytest.raises(PayloadTooLarge):
            await backend.append(Record("small.a", b"x" * 101, None, "id"), timeout=5)

    async def test_headers_count_against_the_payload_limit(self, backend):
        record = Record("orders.new", b"", None, "id")
        room = backend.max_payload - len(b"NATS/1.0\r\nNats-Msg-Id: id\r\n\r\n")
        record.data = b"x" * room
        assert (await backend.append(record, timeout=5)).sequence == 1
        record.data += b"x"
        with pytest.raises(PayloadTooLarge):
            await backend.append(record, timeout=5)
        with pytest.raises(PayloadTooLarge):
            backend.publish("orders.new", b"x" * backend.max_payload, Headers([("A", "b")]))

    async def test_a_time_to_live_is_honoured(self, backend):
        await backend.append(record(ttl=1), timeout=5)
        await eventually(lambda: emptied(backend))

    async def test_cancelling_abandons_the_answer_only(self, backend):
        append = backend.append(record(), timeout=5)
        append.cancel()
        await eventually(lambda: stored(backend, 1))


async def stored(backend, count):
    return (await backend.stream_info("ORDERS")).messages == count


async def emptied(backend):
    return await stored(backend, 0)


class TestAdmin:
    async def test_info_is_what_was_declared(self, backend):
        options = StreamOptions(
            "FULL",
            ["full.a", "full.b.*"],
            storage="memory",
            retention="interest",
            max_msgs=10,
            max_bytes=100_000,
            max_age=3600,
            max_msgs_per_subject=3,
            max_msg_size=1000,
            duplicate_window=1.5,
            discard="old",
            description="everything set",
            metadata={"owner": "me"},
        )
        assert (await backend.create_stream(options)).config == options
        assert (await backend.create_stream(options)).config == options
        assert (await backend.stream_info("FULL")).config == options

    async def test_creating_it_differently_names_every_field(self, backend):
        with pytest.raises(ConfigDrift) as caught:
            await backend.create_stream(
                replace(ORDERS, subjects=["other.>"], max_msgs=5, max_age=600, discard="old", metadata={"a": "b"})
            )
        assert caught.value.name == "ORDERS"
        assert caught.value.differences == {
            "subjects": (("other.>",), ("orders.>",)),
            "discard": ("old", "new"),
            "max_msgs": (5, None),
            "max_age": (600, None),
            "metadata": ({"a": "b"}, {}),
        }

    async def test_an_update_keeps_what_it_does_not_speak_of(self, backend):
        config = (await backend._admin.raw_stream("ORDERS"))["config"]
        await backend._admin._api.call("STREAM.UPDATE.ORDERS", {**config, "allow_batched": True})
        changed = await backend.update_stream(replace(ORDERS, max_msgs=5))
        assert changed.config == replace(ORDERS, max_msgs=5)
        assert (await backend._admin.raw_stream("ORDERS"))["config"]["allow_batched"] is True
        with pytest.raises(StreamNotFound):
            await backend.update_stream(StreamOptions("NOBODY", ["x"]))

    async def test_lists_have_pages(self, backend):
        for number in range(270):
            await backend.create_stream(StreamOptions(f"S{number:03}", [f"s.{number}"], storage="memory"))
        names = [each.name async for each in backend.list_streams()]
        assert names == ["ORDERS", *(f"S{number:03}" for number in range(270))]

    async def test_find_stream(self, backend):
        assert await backend.find_stream("orders.new") == "ORDERS"
        assert await backend.find_stream("orders.*") == "ORDERS"
        assert await backend.find_stream("nobody") is None

    async def test_purge(self, backend):
        for number, subject in enumerate(["orders.a", "orders.b"] * 5):
            await backend.append(record(number, subject), timeout=5)
        assert await backend.purge_stream("ORDERS", subject="orders.a", up_to=None, keep=2) == 3
        assert await backend.purge_stream("ORDERS", subject=None, up_to=5, keep=None) == 2
        assert await backend.purge_stream("ORDERS", subject=None, up_to=None, keep=None) == 5
        state = (await backend.stream_info("ORDERS")).state
        assert (state.messages, state.first_sequence, state.last_sequence) == (0, 11, 10)

    async def test_messages(self, backend):
        await backend.append(Record("orders.a", b"body", Headers([("A", "1"), ("A", "2")]), "id"), timeout=5)
        found = await backend.get_message("ORDERS", sequence=1, last_of=None)
        assert (found.subject, found.data, found.stream, found.sequence) == ("orders.a", b"body", "ORDERS", 1)
        assert found.headers.get_all("a") == ["1", "2"]
        assert abs(found.timestamp_ns / 1e9 - datetime.now(UTC).timestamp()) < 60
        assert await backend.get_message("ORDERS", sequence=None, last_of="orders.*") == found
        assert await backend.get_message("ORDERS", sequence=2, last_of=None) is None
        assert await backend.delete_message("ORDERS", 1) is True
        assert await backend.delete_message("ORDERS", 1) is False
        assert await backend.delete_message("ORDERS", 99) is False
        with pytest.raises(StreamNotFound):
            await backend.get_message("NOBODY", sequence=1, last_of=None)

    async def test_what_does_not_exist(self, backend):
        for call in (
            backend.stream_info("NOBODY"),
            backend.delete_stream("NOBODY"),
            backend.consumer_info("NOBODY", "worker"),
        ):
            with pytest.raises(StreamNotFound):
                await call
        for call in (backend.consumer_info("ORDERS", "nobody"), backend.delete_consumer("ORDERS", "nobody")):
            with pytest.raises(ConsumerNotFound):
                await call
