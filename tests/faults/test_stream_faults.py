"""The stream tier while servers die, freeze and restart and consumers vanish. One promise each."""

import asyncio

import pytest

from broker import (
    ConnectionLost,
    ConsumerGone,
    EnqueueManyError,
    EnqueueUnknown,
    Entry,
    Status,
    StreamOptions,
)
from broker.testing.waiting import eventually

pytestmark = [pytest.mark.nats, pytest.mark.fault]

S = StreamOptions("S", ["s.>"])


async def test_a_kill_and_restart_under_enqueue_and_consume_loses_nothing_that_was_stored(server, sb):
    await sb.declare(S)
    stored, seen = [], set()

    async def handle(msg):
        seen.add(msg.json())

    async def produce():
        for n in range(400):
            stored.append((n, await sb.enqueue("s.a", n, idempotency_key=f"k{n}")))

    await sb.consume("s.a", handle, durable="w", ack_wait=5)
    producing = asyncio.create_task(produce())
    for mark in (100, 200):
        await eventually(lambda mark=mark: len(stored) >= mark, within=10)
        await server.kill()
        await server.restart()
    await asyncio.wait_for(producing, 15)
    await eventually(lambda: len(seen) == 400, within=10)
    assert seen == set(range(400))
    assert (await sb.streams.info("S")).messages == 400
    assert sb.stats.reconnects >= 2


async def test_many_in_flight_at_a_kill_are_each_stored_once(server, sb):
    await sb.declare(S)
    many = asyncio.create_task(sb.enqueue_many((Entry("s.a", n) for n in range(1_500)), window=128, timeout=18))
    await eventually(lambda: sb.stats.enqueued > 200, within=10)
    await server.kill()
    await server.restart()
    receipts = await many
    assert len({receipt.sequence for receipt in receipts}) == 1_500
    assert (await sb.streams.info("S")).messages == 1_500
    assert sb.stats.enqueue_retries > 0


async def test_a_whole_window_is_retried_at_once_and_in_its_order(server, sb):
    await sb.declare(S)
    many = asyncio.create_task(sb.enqueue_many((Entry("s.a", n) for n in range(6_000)), window=1024, timeout=19))
    await eventually(lambda: sb.stats.enqueued > 200, within=10)
    await server.kill()
    await server.restart()
    receipts = await many
    assert [receipt.sequence for receipt in receipts] == sorted(receipt.sequence for receipt in receipts)
    assert sb.stats.enqueue_retries > 100


@pytest.mark.parametrize("congested", [False, True])
async def test_enqueue_many_is_over_at_its_deadline_and_says_of_each_what_is_known(server, sb, congested):
    await sb.declare(S)
    await server.kill()
    await eventually(lambda: sb.status is Status.RECONNECTING, within=10)
    if congested:
        for _ in range(40):
            sb.publish_nowait("core", b"x" * 20_000)
    async with asyncio.timeout(10):
        with pytest.raises(EnqueueManyError) as failed:
            await sb.enqueue_many([Entry("s.a", n) for n in range(2_000)], window=64, timeout=0.5)
    assert set(failed.value.errors) == set(range(2_000))
    assert {type(error) for error in failed.value.errors.values()} == {EnqueueUnknown}


async def test_a_consumer_deleted_under_a_running_consume_is_made_again_within_five_seconds(sb):
    await sb.declare(S)
    seen = []
    await sb.consume("s.a", lambda msg: seen.append(msg.json()), durable="w")
    await sb.enqueue("s.a", 1)
    await eventually(lambda: seen == [1])
    await sb.consumers.delete("S", "w")
    await sb.enqueue("s.a", 2)
    await eventually(lambda: 2 in seen, within=15)


async def test_a_consumer_deleted_while_the_connection_is_down_is_made_again(server, sb, connect):
    await sb.declare(S)
    seen = []
    await sb.consume("s.a", lambda msg: seen.append(msg.json()), durable="w")
    await sb.enqueue("s.a", 1)
    await eventually(lambda: seen == [1])
    await server.stop()
    await server.restart()
    async with connect() as admin:
        await admin.consumers.delete("S", "w")
        await admin.enqueue("s.a", 2)
    await eventually(lambda: 2 in seen, within=15)


async def test_a_deleted_consumer_that_may_only_be_bound_is_gone_within_five_seconds(sb):
    await sb.declare(S)
    await (await sb.consume("s.a", print, durable="w")).drain()
    bound = await sb.consume("s.a", print, durable="w", stream="S", ensure="bind", dead_letter=False)
    await asyncio.sleep(0.1)
    await sb.consumers.delete("S", "w")
    with pytest.raises(ConsumerGone):
        await asyncio.wait_for(bound.wait(), 15)


async def test_a_re_created_consumer_starts_no_later_than_what_the_group_had_settled(sb):
    await sb.declare(S)
    await sb.enqueue_many(Entry("s.a", n) for n in range(300))
    seen = []

    async def handle(msg):
        await asyncio.sleep(0.001)
        seen.append(msg.json())

    await sb.consume("s.a", handle, durable="w", concurrency=4)
    await eventually(lambda: len(seen) > 100)
    await sb.consumers.delete("S", "w")
    await eventually(lambda: set(seen) == set(range(300)), within=10)


async def test_a_frozen_server_is_unknown_not_failed_and_the_same_key_is_safe(server, sb):
    await sb.declare(S)
    await server.freeze()
    with pytest.raises(EnqueueUnknown) as caught:
        await sb.enqueue("s.a", 1, timeout=1.0)
    assert isinstance(caught.value, TimeoutError)
    await server.thaw()
    receipt = await sb.enqueue("s.a", 1, idempotency_key=caught.value.idempotency_key)
    assert receipt.sequence == 1
    assert (await sb.streams.info("S")).messages == 1


async def test_declaring_and_consuming_while_disconnected_wait_and_then_say_so(server, sb):
    await sb.declare(S)
    await server.stop()
    await eventually(lambda: sb.status == "reconnecting", within=10)
    waiting = asyncio.create_task(sb.declare(StreamOptions("T", ["t.>"])))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    await server.restart()
    await asyncio.wait_for(waiting, 10)
    await server.stop()
    await eventually(lambda: sb.status == "reconnecting", within=10)
    with pytest.raises(ConnectionLost):
        await asyncio.wait_for(sb.consume("s.a", print, durable="w"), 15)


async def test_drain_with_sixteen_running_handlers_finishes_them_and_nothing_comes_again(connect):
    started, finished = asyncio.Event(), []
    async with connect() as sb:
        await sb.declare(S)
        await sb.enqueue_many(Entry("s.a", n) for n in range(40))
        running = 0

        async def slow(msg):
            nonlocal running
            running += 1
            if running == 16:
                started.set()
            await asyncio.sleep(0.5)
            finished.append(msg.json())

        await sb.consume("s.a", slow, durable="w", concurrency=16, ack_wait=30)
        await started.wait()
        await sb.drain()
        assert len(finished) == 16
    async with connect() as after:
        seen = []
        await after.consume("s.a", lambda msg: seen.append(msg.json()), durable="w", ack_wait=30)
        await eventually(lambda: len(seen) >= 24, within=12)
        assert sorted(seen + finished) == list(range(40))


async def test_what_was_fetched_and_not_started_is_given_back_at_once(connect):
    async with connect() as sb:
        await sb.declare(S)
        await sb.enqueue_many(Entry("s.a", n) for n in range(10))
        hold = asyncio.Event()

        async def stuck(_msg):
            await hold.wait()

        await sb.consume("s.a", stuck, durable="w", ack_wait=60, concurrency=10)
        await eventually(lambda: sb.stats.delivered == 10)
        await sb.aclose()
    async with (
        connect() as after,
        after.pull("s.a", durable="w", ack_wait=60, max_ack_pending=256) as pulled,
    ):
        got = []
        async with asyncio.timeout(30):  # half of the ack wait
            while len(got) < 10:
                got += await pulled.fetch(10 - len(got), timeout=5)
        assert sorted(each.json() for each in got) == list(range(10))
        for message in got:
            await message.ack()


async def test_a_handler_longer_than_its_ack_wait_is_not_handed_out_twice(sb):
    await sb.declare(S)
    attempts = []

    async def long(msg):
        attempts.append(msg.attempt)
        await asyncio.sleep(2.5)

    await sb.consume("s.a", long, durable="w", ack_wait=1)
    other = []
    await sb.consume("s.a", lambda msg: other.append(msg.attempt), durable="w", ack_wait=1)
    await sb.enqueue("s.a", 1)
    await eventually(lambda: sb.stats.acked == 1, within=15)
    await asyncio.sleep(0.5)
    assert len(attempts) + len(other) == 1


async def test_a_reader_goes_on_after_a_restart_without_a_gap(server, sb):
    await sb.declare(S)
    await sb.enqueue_many(Entry("s.a", n) for n in range(100))
    seen = []

    async def follow():
        async with sb.read("s.a") as stored:
            async for msg in stored:
                seen.append(msg.json())
                if len(seen) == 200:
                    return

    following = asyncio.create_task(follow())
    await eventually(lambda: len(seen) == 100)
    await server.kill()
    await server.restart()
    await sb.enqueue_many(Entry("s.a", n) for n in range(100, 200))
    await asyncio.wait_for(following, 10)
    assert seen == list(range(200))


async def test_leaving_while_the_server_is_frozen_takes_bounded_time(server, connect):
    sb = await connect()
    await sb.declare(S)
    await sb.consume("s.a", print, durable="w")
    await server.freeze()
    started = asyncio.get_running_loop().time()
    await sb.aclose()
    assert asyncio.get_running_loop().time() - started < 12
    await server.thaw()
