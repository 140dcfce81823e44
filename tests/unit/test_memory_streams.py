"""Streams of the memory backend: what nats-server 2.15 was seen to do, on a clock that stands still."""

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest

from broker.backends.memory import ManualClock, MemoryBackend, MemoryHub
from broker.contracts.envelopes import Expect, Receipt, Record
from broker.contracts.errors import (
    ApiError,
    ConfigDrift,
    InvalidOption,
    NoResponders,
    PayloadTooLarge,
    RequestTimeout,
    SequenceConflict,
    StreamFull,
    StreamNotFound,
)
from broker.contracts.headers import Headers
from broker.contracts.options import ConsumerOptions, StreamOptions


@pytest.fixture
async def backend(clock):
    backend = MemoryBackend(MemoryHub(clock=clock))
    yield backend
    await backend.close()
    assert clock.timers == 0


numbers = count(1)


def record(subject="s.1", data=b"x", *, key=None, **more):
    return Record(subject, data, more.pop("headers", None), key or f"id-{next(numbers)}", **more)


async def put(backend, *args, **more):
    return await backend.append(record(*args, **more), timeout=1)


async def state(backend, name="S"):
    return (await backend.stream_info(name)).state


async def stored(backend, name="S"):
    last = (await state(backend, name)).last_sequence
    found = [await backend.get_message(name, sequence=each, last_of=None) for each in range(1, last + 1)]
    return [each.sequence for each in found if each]


async def stream(backend, **options):
    return await backend.create_stream(StreamOptions("S", options.pop("subjects", ["s.>"]), **options))


async def test_a_message_is_stored_with_what_it_came_with(backend, clock):
    await stream(backend)
    receipt = backend.append(record("s.1", b"body", key="k", headers=Headers([("A", "1")])), timeout=1)
    assert not receipt.done()
    assert await receipt == Receipt("S", 1)
    message = await backend.get_message("S", sequence=1, last_of=None)
    assert (message.subject, message.data, message.stream, message.sequence) == ("s.1", b"body", "S", 1)
    assert message.headers.pairs == (("A", "1"), ("Nats-Msg-Id", "k"))
    assert message.timestamp_ns == clock.wall_ns()
    assert (await state(backend)).last_sequence == 1


async def test_bytes_are_counted_as_the_server_counts_them(backend):
    await stream(backend)
    backend.publish("s.x", b"12345", None)
    assert (await state(backend)).bytes == 38
    await put(backend, "s.x", b"12345", key="id")
    assert (await state(backend)).bytes == 109
    await backend.create_stream(StreamOptions("M", ["m.>"], storage="memory"))
    await put(backend, "m.x", b"12345", key="id")
    assert (await state(backend, "M")).bytes == 53


async def test_without_a_stream_nobody_answers_unless_somebody_else_listens(backend, clock):
    with pytest.raises(NoResponders):
        await put(backend, "nowhere")
    got = []
    await backend.subscribe("nowhere", got.append, queue=None)
    waiting = backend.append(record("nowhere"), timeout=3)
    await backend.flush(timeout=1)
    assert len(got) == 1
    assert not waiting.done()
    clock.advance(3)
    with pytest.raises(RequestTimeout):
        await waiting


async def test_subscribers_see_what_is_appended_and_plain_publishes_are_stored(backend):
    await stream(backend)
    got = []
    await backend.subscribe("s.*", got.append, queue=None)
    await put(backend, "s.1", b"appended", key="k")
    backend.publish("s.2", b"published", None)
    await backend.flush(timeout=1)
    assert [each.data for each in got] == [b"appended", b"published"]
    assert got[0].headers["Nats-Msg-Id"] == "k"
    assert (await backend.get_message("S", sequence=2, last_of=None)).data == b"published"


async def test_abandoning_the_answer_does_not_abandon_the_message(backend):
    await stream(backend)
    backend.append(record(), timeout=1).cancel()
    await backend.flush(timeout=1)
    assert (await state(backend)).messages == 1


async def test_a_payload_over_the_servers_limit_fails_the_future(backend):
    await stream(backend, max_msg_size=100)
    receipt = backend.append(record("s.1", b"x" * backend.max_payload), timeout=1)
    assert not receipt.done()
    with pytest.raises(PayloadTooLarge):
        await receipt
    with pytest.raises(PayloadTooLarge) as caught:
        await put(backend, "s.1", b"x" * 101)
    assert caught.value.limit == 100


async def test_creating_twice_is_fine_and_drift_is_told_field_by_field(backend):
    options = StreamOptions("S", ["a", "b"], max_age=5, duplicate_window=2)
    info = await backend.create_stream(options)
    assert info.config == options
    assert info.created.tzinfo is UTC
    assert await backend.create_stream(options) == info
    with pytest.raises(ConfigDrift) as caught:
        await backend.create_stream(StreamOptions("S", ["b", "a"], max_age=9, duplicate_window=2))
    assert caught.value.differences == {"max_age": (9, 5)}


async def test_subjects_of_two_streams_may_not_overlap(backend):
    await stream(backend, subjects=["s.>"])
    with pytest.raises(ApiError) as caught:
        await backend.create_stream(StreamOptions("T", ["*.1"]))
    assert (caught.value.code, caught.value.err_code) == (400, 10065)
    await backend.create_stream(StreamOptions("T", ["t"]))
    with pytest.raises(ApiError):
        await backend.update_stream(StreamOptions("T", ["s.9"]))
    await backend.update_stream(StreamOptions("T", ["u"]))
    assert await backend.find_stream("t") is None
    assert await backend.find_stream("u") == "T"


async def test_streams_are_found_by_subject_and_by_pattern_and_listed_by_name(backend):
    await backend.create_stream(StreamOptions("B", ["b.*"]))
    await backend.create_stream(StreamOptions("A", ["a.>"]))
    assert [await backend.find_stream(each) for each in ("b.1", "b.>", "a", "a.1.2")] == ["B", "B", None, "A"]
    with pytest.raises(InvalidOption, match="A, B"):
        await backend.find_stream("*.x")
    assert [each.name async for each in backend.list_streams()] == ["A", "B"]
    await backend.delete_stream("A")
    assert [each.name async for each in backend.list_streams()] == ["B"]
    for call in (
        backend.delete_stream("A"),
        backend.stream_info("A"),
        backend.update_stream(StreamOptions("A", ["a"])),
        backend.consumer_info("A", "c"),
        backend.get_message("A", sequence=1, last_of=None),
        backend.list_consumers("A").__anext__(),
    ):
        with pytest.raises(StreamNotFound):
            await call


async def test_update_applies_limits_and_refuses_what_cannot_change(backend):
    await stream(backend)
    for subject in ("s.1", "s.1", "s.2", "s.2"):
        await put(backend, subject)
    info = await backend.update_stream(StreamOptions("S", ["s.>"], max_msgs_per_subject=1))
    assert (info.messages, info.config.max_msgs_per_subject) == (2, 1)
    assert await stored(backend) == [2, 4]
    for change in ({"storage": "memory"}, {"retention": "workqueue"}):
        with pytest.raises(ConfigDrift) as caught:
            await backend.update_stream(StreamOptions("S", ["s.>"], **change))
        assert set(caught.value.differences) == set(change)


async def test_discard_new_refuses_and_repeats_are_still_answered(backend):
    await stream(backend, max_msgs=1)
    await put(backend, key="k")
    with pytest.raises(StreamFull):
        await put(backend)
    assert await put(backend, key="k") == Receipt("S", 1, duplicate=True)
    backend.publish("s.1", b"", None)
    assert await stored(backend) == [1]


async def test_discard_new_by_bytes_allows_exactly_full(backend):
    await stream(backend, max_bytes=76)
    for _ in range(3):
        backend.publish("s.x", b"12345", None)
    assert ((await state(backend)).messages, (await state(backend)).bytes) == (2, 76)
    with pytest.raises(StreamFull):
        await put(backend)


async def test_discard_old_drops_the_oldest(backend):
    await stream(backend, max_msgs=2, discard="old")
    for _ in range(5):
        await put(backend)
    assert await stored(backend) == [4, 5]
    found = await state(backend)
    assert (found.first_sequence, found.last_sequence) == (4, 5)


async def test_a_message_larger_than_the_whole_stream_leaves_it_empty(backend):
    await stream(backend, max_bytes=200, discard="old")
    await put(backend)
    await put(backend, "s.1", b"x" * 300)
    found = await state(backend)
    assert (found.messages, found.bytes, found.first_sequence, found.last_sequence) == (0, 0, 3, 2)


@pytest.mark.parametrize("discard", ["new", "old"])
async def test_a_subject_at_its_limit_makes_room_for_itself(backend, discard):
    await stream(backend, max_msgs=2, max_msgs_per_subject=1, discard=discard)
    await put(backend, "s.1")
    await put(backend, "s.2")
    await put(backend, "s.1")
    assert await stored(backend) == [2, 3]
    if discard == "new":
        with pytest.raises(StreamFull):
            await put(backend, "s.3")
    else:
        await put(backend, "s.3")
        assert await stored(backend) == [3, 4]


async def test_messages_leave_when_they_are_too_old(backend, clock):
    await stream(backend, max_age=10, duplicate_window=5)
    await put(backend)
    clock.advance(4)
    await put(backend)
    assert clock.timers == 1
    clock.advance(6)
    assert await stored(backend) == [2]
    clock.advance(4)
    found = await state(backend)
    assert (found.messages, found.bytes, found.first_sequence) == (0, 0, 3)
    assert clock.timers == 0


async def test_a_message_with_a_time_to_live_leaves_alone(backend, clock):
    await stream(backend)
    await put(backend)
    await put(backend, ttl=3)
    await put(backend, ttl=2)
    clock.advance(2)
    assert await stored(backend) == [1, 2]
    assert await backend.get_message("S", sequence=3, last_of=None) is None
    clock.advance(1)
    assert await stored(backend) == [1]
    assert clock.timers == 0


async def test_a_repeat_within_the_window_is_dropped_and_does_not_renew_it(backend, clock):
    await stream(backend, duplicate_window=10)
    assert await put(backend, "s.1", key="k") == Receipt("S", 1)
    clock.advance(6)
    assert await put(backend, "s.other", key="k") == Receipt("S", 1, duplicate=True)
    await backend.purge_stream("S", subject=None, up_to=None, keep=None)
    assert await put(backend, key="k") == Receipt("S", 1, duplicate=True)
    clock.advance(4)
    assert await put(backend, key="k") == Receipt("S", 2)
    await backend.create_stream(StreamOptions("T", ["t"]))
    assert await put(backend, "t", key="k") == Receipt("T", 1)


async def test_expectations_hold_or_nothing_is_stored(backend):
    await stream(backend)
    await put(backend, "s.a", key="first", expect=Expect(last_sequence=0, stream="S"))
    await put(backend, "s.b", key="second", expect=Expect(last_subject_sequence=0, last_msg_id="first"))
    await put(backend, "s.b", expect=Expect(last_subject_sequence=2))
    await put(backend, "s.c", expect=Expect(last_subject_sequence=3, subject_filter="s.*"))
    for wrong in (
        Expect(last_sequence=1),
        Expect(last_subject_sequence=1),
        Expect(last_subject_sequence=3, subject_filter="s.>"),
        Expect(last_msg_id="first"),
        Expect(stream="T"),
    ):
        with pytest.raises(SequenceConflict):
            await put(backend, "s.c", expect=wrong)
    assert (await state(backend)).messages == 4


async def test_positions_are_checked_before_repeats_and_the_last_id_after_as_on_one_server(backend):
    await stream(backend)
    await put(backend, key="k")
    with pytest.raises(SequenceConflict):
        await put(backend, key="k", expect=Expect(last_sequence=0))
    assert (await put(backend, key="k", expect=Expect(last_msg_id="other"))).duplicate
    backend.publish("s.1", b"no id", None)
    with pytest.raises(SequenceConflict):
        await put(backend, expect=Expect(last_msg_id="k"))


async def test_purge_by_pattern_by_sequence_and_keeping_the_newest(backend):
    await stream(backend)
    for subject in ("s.a", "s.b", "s.a", "s.b", "s.a"):
        await put(backend, subject)
    purge = backend.purge_stream
    assert await purge("S", subject="s.b", up_to=4, keep=None) == 1
    assert await purge("S", subject="s.a", up_to=None, keep=2) == 1
    assert await stored(backend) == [3, 4, 5]
    with pytest.raises(ApiError) as caught:
        await purge("S", subject=None, up_to=4, keep=1)
    assert caught.value.err_code == 10003
    assert await purge("S", subject=None, up_to=None, keep=None) == 3
    assert (await state(backend)).first_sequence == 6


async def test_the_last_of_a_pattern_and_deleting_one(backend):
    await stream(backend)
    for subject in ("s.a", "s.b", "s.a"):
        await put(backend, subject)
    last = [await backend.get_message("S", sequence=None, last_of=each) for each in ("s.a", "s.b", "s.*", "s.z")]
    assert [each.sequence if each else None for each in last] == [3, 2, 3, None]
    assert await backend.delete_message("S", 3)
    assert not await backend.delete_message("S", 3)
    assert (await backend.get_message("S", sequence=None, last_of="s.a")).sequence == 1
    assert (await state(backend)).last_sequence == 3
    assert await put(backend) == Receipt("S", 4)


async def test_a_work_queue_forgets_what_is_settled_and_allows_one_consumer_per_message(backend):
    await stream(backend, retention="workqueue")
    for subject in ("s.a", "s.a", "s.a", "s.b"):
        await put(backend, subject)
    source = await backend.open_consumer(ConsumerOptions(durable="a", filters=["s.a"]))
    first, second, third = await source.fetch(9, timeout=1)
    await source.ack([first])
    await source.term(second, reason="no")
    await source.nak(third, delay=1)
    assert await stored(backend) == [3, 4]

    async def refused(err_code, **options):
        with pytest.raises(ApiError) as caught:
            await backend.open_consumer(ConsumerOptions(durable="x", stream="S", **options))
        assert caught.value.err_code == err_code

    await refused(10100, filters=["s.*"])
    await refused(10099)
    await refused(10101, filters=["s.b"], start="new")
    await refused(10084, filters=["s.b"], acks=False)
    await backend.open_consumer(ConsumerOptions(durable="b", filters=["s.b"]))


async def test_interest_keeps_what_somebody_still_needs(backend):
    await stream(backend, retention="interest")
    assert await put(backend, "s.a") == Receipt("S", 1)
    assert (await state(backend)).messages == 0
    first = await backend.open_consumer(ConsumerOptions(durable="one", filters=["s.a"]))
    second = await backend.open_consumer(ConsumerOptions(durable="two", filters=["s.>"]))
    for subject in ("s.a", "s.b"):
        await put(backend, subject)
    await first.ack(await first.fetch(9, timeout=1))
    assert await stored(backend) == [2, 3]
    await second.ack(await second.fetch(1, timeout=1))
    assert await stored(backend) == [3]
    await backend.delete_consumer("S", "two")
    assert await stored(backend) == []


async def test_a_hub_without_connections_keeps_streams_but_no_timers():
    clock = ManualClock()
    hub = MemoryHub(clock=clock)
    before = MemoryBackend(hub)
    await before.create_stream(StreamOptions("S", ["s.>"], max_age=10, duplicate_window=5))
    await put(before)
    await before.close()
    assert clock.timers == 0
    clock.advance(4)
    after = MemoryBackend(hub)
    assert await stored(after) == [1]
    clock.advance(6)
    assert await stored(after) == []
    await after.close()


async def test_a_start_by_time_counts_by_the_hubs_wall_clock(backend, clock):
    await stream(backend)
    began = datetime.fromtimestamp(clock.wall_ns() / 1e9, UTC)
    for _ in range(3):
        await put(backend)
        clock.advance(10)
    source = await backend.open_consumer(ConsumerOptions(filters=["s.>"], start=began + timedelta(seconds=10)))
    assert [each.sequence for each in await source.fetch(9, timeout=1)] == [2, 3]
    late = await backend.open_consumer(ConsumerOptions(filters=["s.>"], start=began + timedelta(hours=1)))
    waiting = asyncio.ensure_future(late.fetch(1, timeout=5))
    await put(backend)
    assert [each.sequence for each in await waiting] == [4]
