"""Consumers of the memory backend: what nats-server 2.15 was seen to do, on a clock that stands still."""

import asyncio

import pytest

from broker.backends.memory import MemoryBackend, MemoryHub
from broker.contracts.envelopes import Record
from broker.contracts.errors import (
    AckUnknown,
    ApiError,
)
from broker.contracts.options import StreamOptions
from tests.taking import now, opened, put, seen, turns


@pytest.fixture
async def backend(clock):
    backend = MemoryBackend(MemoryHub(clock=clock))
    await backend.create_stream(StreamOptions("S", ["s.>"]))
    yield backend
    await backend.close()
    assert clock.timers == 0


async def test_a_delivery_says_what_it_is(backend, clock):
    await put(backend, "s.a", "s.b")
    stored = clock.wall_ns()
    clock.advance(1)
    source = await opened(backend)
    first, second = await source.fetch(5, timeout=1)
    assert (first.subject, first.data, first.stream, first.consumer) == ("s.a", b"x", "S", "d")
    assert (first.sequence, first.attempt, first.pending, first.timestamp_ns) == (1, 1, 1, stored)
    assert (second.sequence, second.pending, second.consumer_sequence) == (2, 0, 2)
    assert (source.stream, source.consumer, source.resume_sequence) == ("S", "d", 1)
    await source.ack([first])
    assert source.resume_sequence == 2


async def test_a_fetch_waits_for_the_first_message_and_no_longer_than_it_may(backend, clock):
    source = await opened(backend)
    waiting = asyncio.ensure_future(source.fetch(5, timeout=10))
    await turns()
    assert (await backend.consumer_info("S", "d")).waiting == 1
    await put(backend, "s.a")
    assert seen(await waiting) == [(1, 1)]
    waiting = asyncio.ensure_future(source.fetch(5, timeout=10))
    await turns()
    clock.advance(9.9)
    await turns()
    assert not waiting.done()
    clock.advance(0.1)
    assert await waiting == []
    assert (await backend.consumer_info("S", "d")).waiting == 0
    assert await now(source) == []


async def test_a_fetch_takes_no_more_than_its_limit(backend):
    await put(backend, *["s.a"] * 5)
    source = await opened(backend)
    assert seen(await now(source, 2)) == [(1, 1), (2, 1)]
    assert seen(await now(source, 2)) == [(3, 1), (4, 1)]
    info = await backend.consumer_info("S", "d")
    assert (info.pending, info.ack_pending, info.delivered_sequence, info.ack_floor) == (1, 4, 4, 0)


async def test_two_sources_share_one_position_and_its_places(backend):
    await put(backend, *["s.a"] * 5)
    one, two = await opened(backend, max_ack_pending=3), await opened(backend, max_ack_pending=3)
    mine = await now(one, 2)
    theirs = await now(two)
    assert seen(mine + theirs) == [(1, 1), (2, 1), (3, 1)]
    assert await now(one) == []
    waiting = asyncio.ensure_future(two.fetch(5, timeout=5))
    await turns()
    await one.ack(mine)
    assert seen(await waiting) == [(4, 1), (5, 1)]


async def test_waiting_sources_are_served_in_turn(backend):
    sources = [await opened(backend) for _ in range(3)]
    waiting = [asyncio.ensure_future(source.fetch(10, timeout=5)) for source in sources]
    await turns()
    for _ in range(6):
        backend.publish("s.a", b"", None)
    assert [seen(await each) for each in waiting] == [[(1, 1), (4, 1)], [(2, 1), (5, 1)], [(3, 1), (6, 1)]]


async def test_pulls_that_timed_out_do_not_pile_up_behind_one_that_waits(backend, clock):
    patient, hasty = await opened(backend), await opened(backend)
    waiting = asyncio.ensure_future(patient.fetch(1, timeout=1000))
    await turns()
    for _ in range(50):
        short = asyncio.ensure_future(hasty.fetch(1, timeout=1))
        await turns()
        clock.advance(1)
        await short
    assert len(backend._hub.streams.find("S").consumers["d"]._pulls) <= 2
    waiting.cancel()


async def test_what_is_not_settled_in_time_comes_again_before_what_is_new(backend, clock):
    await put(backend, "s.a", "s.a", "s.a")
    source = await opened(backend, ack_wait=10)
    first, _ = await now(source, 2)
    clock.advance(10)
    assert seen(await now(source)) == [(1, 2), (2, 2), (3, 1)]
    info = await backend.consumer_info("S", "d")
    assert (info.redelivered, info.ack_pending, info.pending) == (2, 3, 0)
    await source.ack([first])
    await source.ack([first])
    assert (await backend.consumer_info("S", "d")).redelivered == 1


async def test_a_waiting_fetch_gets_the_expired_message_at_its_time(backend, clock):
    await put(backend, "s.a")
    source = await opened(backend, ack_wait=10)
    await now(source)
    waiting = asyncio.ensure_future(source.fetch(1, timeout=60))
    await turns()
    clock.advance(9)
    await turns()
    assert not waiting.done()
    clock.advance(1)
    assert seen(await waiting) == [(1, 2)]


async def test_nak_with_a_delay_keeps_its_place(backend, clock):
    await put(backend, "s.a", "s.b")
    source = await opened(backend, max_ack_pending=1)
    (poison,) = await now(source)
    await source.nak(poison, delay=5)
    assert await now(source) == []
    waiting = asyncio.ensure_future(source.fetch(5, timeout=60))
    await turns()
    clock.advance(5)
    (again,) = await waiting
    assert seen([again]) == [(1, 2)]
    await source.nak(again, delay=0)
    (third,) = await now(source)
    assert third.attempt == 3
    await source.term(third, reason="poison")
    assert seen(await now(source)) == [(2, 1)]


async def test_extend_starts_the_wait_anew(backend, clock):
    await put(backend, "s.a")
    source = await opened(backend, ack_wait=10)
    held = await now(source)
    for _ in range(5):
        clock.advance(9)
        await source.extend(held)
    clock.advance(9.9)
    assert await now(source) == []
    clock.advance(0.1)
    assert seen(await now(source)) == [(1, 2)]


async def test_a_confirmed_ack_is_confirmed_unless_nobody_can(backend):
    await put(backend, "s.a", "s.b")
    source = await opened(backend)
    first, second = await now(source)
    await source.confirm_ack(first, timeout=1)
    await source.confirm_ack(first, timeout=1)
    assert (await backend.consumer_info("S", "d")).ack_floor == 1
    await backend.delete_consumer("S", "d")
    with pytest.raises(AckUnknown):
        await source.confirm_ack(second, timeout=1)
    await source.ack([second])
    await source.nak(second, delay=0)
    await source.extend([second])


async def test_readers_without_acks_get_everything_once(backend, clock):
    await put(backend, *["s.a"] * 3)
    source = await opened(backend, acks=False, max_ack_pending=1, ack_wait=1)
    assert seen(await now(source)) == [(1, 1), (2, 1), (3, 1)]
    clock.advance(100)
    assert await now(source) == []
    info = await backend.consumer_info("S", "d")
    assert (info.ack_pending, info.ack_floor, info.delivered_sequence) == (0, 3, 3)


async def test_filters_choose_and_pending_counts_only_the_chosen(backend):
    await put(backend, "s.a", "s.b", "s.c.1", "s.a", "s.d")
    source = await opened(backend, filters=["s.a", "s.c.*"])
    assert [(each.subject, each.pending) for each in await now(source)] == [("s.a", 2), ("s.c.1", 1), ("s.a", 0)]
    with pytest.raises(ApiError) as caught:
        await opened(backend, "x", filters=["s.a", "s.*"])
    assert caught.value.err_code == 10138


@pytest.mark.parametrize(
    ("start", "expected", "before"),
    [
        ("first", [1, 2, 3, 4], 0),
        ("last", [4], 3),
        ("new", [], 4),
        ("last_per_subject", [2, 3, 4], 1),
        (3, [3, 4], 2),
        (99, [], 98),
    ],
)
async def test_where_a_new_consumer_starts(backend, start, expected, before):
    await put(backend, "s.a", "s.b", "s.c", "s.a")
    source = await opened(backend, start=start)
    info = await backend.consumer_info("S", "d")
    assert (info.pending, info.delivered_sequence, info.ack_floor) == (len(expected), before, before)
    assert source.resume_sequence == before + 1
    assert [each.sequence for each in await now(source)] == expected
    await put(backend, "s.z")
    assert [each.sequence for each in await now(source)] == ([] if start == 99 else [5])


async def test_the_last_of_a_filter_is_the_last_that_matches(backend):
    await put(backend, "s.a", "s.a", "s.b")
    source = await opened(backend, filters=["s.a"], start="last")
    assert seen(await now(source)) == [(2, 1)]


async def test_last_per_subject_follows_what_is_replaced_meanwhile(backend):
    await backend.update_stream(StreamOptions("S", ["s.>"], max_msgs_per_subject=1))
    await put(backend, "s.a", "s.b")
    source = await opened(backend, start="last_per_subject")
    await put(backend, "s.a")
    assert [(each.subject, each.sequence, each.pending) for each in await now(source)] == [("s.b", 2, 1), ("s.a", 3, 0)]


async def test_what_is_deleted_or_purged_is_settled(backend):
    await put(backend, "s.a", "s.b", "s.a", "s.b")
    source = await opened(backend)
    await now(source, 2)
    await backend.delete_message("S", 1)
    info = await backend.consumer_info("S", "d")
    assert (info.ack_pending, info.ack_floor, info.pending) == (1, 1, 2)
    await backend.purge_stream("S", subject=None, up_to=None, keep=None)
    info = await backend.consumer_info("S", "d")
    assert (info.ack_pending, info.ack_floor, info.pending) == (0, 2, 0)
    await put(backend, "s.c")
    assert seen(await now(source)) == [(5, 1)]


async def test_an_expired_message_is_not_handed_out(backend, clock):
    await backend.append(Record("s.a", b"", None, "a", ttl=5), timeout=1)
    source = await opened(backend, ack_wait=1)
    await now(source)
    clock.advance(5)
    assert await now(source) == []
    assert (await backend.consumer_info("S", "d")).ack_pending == 0


async def test_a_cancelled_fetch_loses_nothing(backend):
    source, other = await opened(backend), await opened(backend)
    waiting = asyncio.ensure_future(source.fetch(3, timeout=100))
    await turns()
    waiting.cancel()
    await turns()
    for _ in range(3):
        backend.publish("s.a", b"", None)
    assert seen(await now(other)) == [(1, 1), (2, 1), (3, 1)]


async def answered_under_cancellation(backend, source):
    fetching = asyncio.ensure_future(source.fetch(3, timeout=100))
    await asyncio.sleep(0)
    backend._hub.streams.find("S").consumers["d"]._serve()
    fetching.cancel()
    await asyncio.wait([fetching])
    assert fetching.cancelled()


async def test_what_arrived_under_a_cancelled_fetch_stays_for_the_next(backend):
    await put(backend, "s.a", "s.b")
    source = await opened(backend)
    await answered_under_cancellation(backend, source)
    assert seen(await now(source, 1)) == [(1, 1)]
    assert seen(await now(source, 9)) == [(2, 1)]


@pytest.mark.parametrize("acks", [True, False])
async def test_what_arrived_under_a_cancelled_fetch_is_given_back_by_close(backend, acks):
    await put(backend, "s.a", "s.b")
    source, other = await opened(backend, acks=acks), await opened(backend, acks=acks)
    await answered_under_cancellation(backend, source)
    assert source.resume_sequence == 1
    await source.close()
    await source.close()
    assert seen(await now(other)) == [(1, 1 + acks), (2, 1 + acks)]
