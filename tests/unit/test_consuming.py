"""What the consume loop decides, on the memory twin."""

import asyncio
import functools

import pytest

from broker import (
    ConfigDrift,
    ConnectionLost,
    ConsumerGone,
    Entry,
    InvalidOption,
    NoStream,
    StreamBroker,
    StreamNotFound,
    StreamOptions,
)
from broker.backends.memory import MemoryBackend, MemoryHub
from broker.testing.waiting import eventually


async def broker_with_stream(backend=None):
    sb = StreamBroker(backend or MemoryBackend(MemoryHub()))
    await sb.declare(StreamOptions("S", ["s.>"]))
    return sb


async def test_the_inline_window_starts_at_one_and_grows_while_the_handler_is_fast():
    sb = await broker_with_stream()
    async with sb:
        await sb.enqueue_many(Entry("s.a", n) for n in range(500))
        seen = []
        consumption = await sb.consume("s.a", lambda msg: seen.append(msg.sequence), durable="w")
        assert consumption._hands.window == 1
        await eventually(lambda: len(seen) == 500)
        assert seen == sorted(seen)
        assert consumption._hands.window > 1


async def test_a_plain_function_that_turns_slow_shrinks_the_window_and_leaves_the_rest_to_others():
    sb = await broker_with_stream()
    async with sb:
        await sb.enqueue_many(Entry("s.a", n) for n in range(40))

        def slow(_msg):
            deadline = asyncio.get_running_loop().time() + 0.012
            while asyncio.get_running_loop().time() < deadline:
                pass

        consumption = await sb.consume("s.a", slow, durable="w")
        await eventually(lambda: sb.stats.acked >= 10)
        assert consumption._hands.window <= 2


async def test_a_partial_of_an_async_function_runs_as_a_task():
    sb = await broker_with_stream()
    seen = []

    async def handle(label, msg):
        await asyncio.sleep(0)
        seen.append((label, msg.json()))

    async with sb:
        await sb.consume("s.a", functools.partial(handle, "x"), durable="w")
        await sb.enqueue("s.a", 1)
        await eventually(lambda: seen == [("x", 1)])


async def test_a_lambda_that_returns_a_coroutine_fails_loudly_instead_of_losing_it():
    sb = await broker_with_stream()

    async def handle(_msg):
        pass

    async with sb:
        await sb.consume("s.a", lambda msg: handle(msg), durable="w", max_deliver=1)  # noqa: PLW0108 - the lambda is the mistake
        await sb.enqueue("s.a", 1)
        await eventually(lambda: sb.stats.dead_lettered == 1)
        (letter,) = [each async for each in sb.dead_letters.list()]
        assert "async def" in letter.error


async def test_a_deleted_consumer_is_made_again_where_the_group_had_got_to():
    sb = await broker_with_stream()
    seen = []

    async def handle(msg):
        seen.append(msg.json())

    async with sb:
        await sb.consume("s.a", handle, durable="w")
        await sb.enqueue("s.a", 1)
        await eventually(lambda: sb.stats.acked == 1)
        await sb.consumers.delete("S", "w")
        await sb.enqueue("s.a", 2)
        await eventually(lambda: seen == [1, 2])


async def test_a_deleted_consumer_that_may_only_be_bound_ends_the_consumption():
    sb = await broker_with_stream()
    async with sb:
        maker = await sb.consume("s.a", print, durable="w")
        await maker.drain()
        bound = await sb.consume("s.a", print, durable="w", stream="S", ensure="bind", dead_letter=False)
        await sb.consumers.delete("S", "w")
        with pytest.raises(ConsumerGone):
            await asyncio.wait_for(bound.wait(), 5)


async def test_a_deleted_stream_ends_the_consumption():
    sb = await broker_with_stream()
    async with sb:
        consumption = await sb.consume("s.a", print, durable="w", dead_letter=False)
        await sb.streams.delete("S")
        with pytest.raises(StreamNotFound):
            await asyncio.wait_for(consumption.wait(), 5)


async def test_pause_gives_back_and_resume_goes_on_even_in_one_breath():
    sb = await broker_with_stream()
    seen = []
    async with sb:
        consumption = await sb.consume("s.a", lambda msg: seen.append(msg.json()), durable="w")
        await sb.enqueue("s.a", 1)
        await eventually(lambda: seen == [1])
        await consumption.pause()
        await consumption.resume()
        await sb.enqueue("s.a", 2)
        await eventually(lambda: seen == [1, 2])
        await consumption.pause()
        await sb.enqueue("s.a", 3)
        await asyncio.sleep(0.05)
        assert seen == [1, 2]
        await consumption.resume()
        await eventually(lambda: seen == [1, 2, 3])


async def test_a_handler_that_stalled_past_its_ack_wait_is_not_started_twice():
    sb = await broker_with_stream()
    started = []

    async def stalls(msg):
        started.append(msg.attempt)
        deadline = asyncio.get_running_loop().time() + 0.3
        while asyncio.get_running_loop().time() < deadline:  # the whole process is stalled, nothing can be extended
            pass
        await asyncio.sleep(0.2)

    async with sb:
        await sb.consume("s.a", stalls, durable="w", ack_wait=0.1)
        await sb.enqueue("s.a", 1)
        await eventually(lambda: sb.stats.acked == 1)
        assert started == [1]
        assert (await sb.consumers.info("S", "w")).ack_pending == 0


async def test_opening_is_retried_while_the_server_cannot():
    class Flaky(MemoryBackend):
        failures = 0

        async def open_consumer(self, options):
            if self.failures:
                self.failures -= 1
                raise ConnectionLost("not now")
            return await super().open_consumer(options)

    backend = Flaky(MemoryHub())
    sb = await broker_with_stream(backend)
    seen = []
    async with sb:
        await sb.consume("s.a", lambda msg: seen.append(msg.json()), durable="w")
        backend.failures = 2
        await sb.consumers.delete("S", "w")
        await sb.enqueue("s.a", 1)
        await eventually(lambda: seen == [1])


async def test_what_cannot_be_consumed_is_refused_at_once():
    sb = await broker_with_stream()
    async with sb:
        with pytest.raises(NoStream):
            await sb.consume("elsewhere", print, durable="w")
        with pytest.raises(InvalidOption):
            await sb.consume("s.a", print, durable="w", ordered=True)
        with pytest.raises(InvalidOption):
            await sb.consume("s.a", "not callable", durable="w")
        await sb.consume("s.a", print, durable="w", ack_wait=10)
        with pytest.raises(ConfigDrift) as caught:
            await sb.consume("s.a", print, durable="w", ack_wait=20)
        assert "ack_wait" in caught.value.differences


async def test_a_handler_whose_error_has_no_text_is_still_settled():
    class Broken(Exception):
        def __str__(self):
            raise ZeroDivisionError

    sb = await broker_with_stream()

    async def fail(_msg):
        raise Broken

    async with sb:
        await sb.consume("s.a", fail, durable="w", max_deliver=1)
        await sb.enqueue("s.a", 1)
        await eventually(lambda: sb.stats.terminated == 1)


async def test_a_pattern_over_two_streams_needs_the_streams_name():
    sb = await broker_with_stream()
    async with sb:
        await sb.declare(StreamOptions("T", ["t.>"]))
        with pytest.raises(InvalidOption, match="S, T"):
            await sb.consume("*.a", print, durable="w")


async def test_asking_a_puller_without_waiting_still_asks():
    sb = await broker_with_stream()
    async with sb, sb.pull("s.a", durable="w") as pulled:
        await sb.enqueue("s.a", 1)
        assert (await pulled.next(timeout=0)).json() == 1
        assert await pulled.fetch(1, timeout=0) == []


async def test_iterating_a_puller_ends_when_the_broker_drains():
    sb = await broker_with_stream()
    seen = []

    async def work():
        async with sb.pull("s.a", durable="w") as pulled:
            async for msg in pulled:
                seen.append(msg.json())
                await msg.ack()

    await sb.enqueue("s.a", 1)
    working = asyncio.create_task(work())
    await eventually(lambda: seen == [1])
    await sb.drain()
    await asyncio.wait_for(working, 3)


async def test_a_slow_iteration_takes_no_more_ahead_than_its_ack_wait_allows():
    sb = await broker_with_stream()
    await sb.enqueue_many(Entry("s.a", n) for n in range(6))
    attempts = []
    async with sb, sb.pull("s.a", durable="w", ack_wait=0.2) as pulled:
        async for msg in pulled:
            attempts.append(msg.attempt)
            await asyncio.sleep(0.15)
            await msg.ack()
            if len(attempts) == 6:
                break
    assert attempts == [1] * 6


async def test_a_flood_of_publishes_waits_and_drops_nothing():
    sb = StreamBroker(MemoryBackend(MemoryHub(), outbound_limit=64 << 10))
    async with sb:

        async def flood():
            for _ in range(20):
                await sb.publish("a", b"x" * 10_000)

        await asyncio.gather(*(flood() for _ in range(50)))
        assert sb.stats.dropped_outbound == 0


async def test_brisk_async_handlers_are_fetched_for_ahead_and_slow_ones_are_not():
    sb = await broker_with_stream()
    async with sb:
        await sb.enqueue_many(Entry("s.a", n) for n in range(400))
        seen, most, slow = [], 0, asyncio.Event()

        async def handle(msg):
            nonlocal most
            if slow.is_set():
                await asyncio.sleep(0.02)
            seen.append(msg.sequence)
            most = max(most, consumption.in_hand)

        consumption = await sb.consume("s.a", handle, durable="w", concurrency=4)
        await eventually(lambda: len(seen) == 400)
        assert most > 4
        slow.set()
        await sb.enqueue_many(Entry("s.b", n) for n in range(1))
        await sb.enqueue_many(Entry("s.a", n) for n in range(60))
        await eventually(lambda: len(seen) >= 430)
        most = 0
        await eventually(lambda: len(seen) == 460)
        assert most <= 4
