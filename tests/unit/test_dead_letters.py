"""What the consume loop buries and what it keeps, on the memory twin."""

import asyncio

import pytest

from broker import (
    ConfigDrift,
    StreamBroker,
    StreamFull,
    StreamOptions,
)
from broker.backends.memory import MemoryBackend, MemoryHub
from broker.testing.waiting import eventually
from tests.unit.test_consuming import broker_with_stream


async def test_a_dead_letter_that_cannot_be_stored_keeps_the_message():
    class NoRoom(MemoryBackend):
        full = True

        def append(self, record, *, timeout):
            if self.full and record.subject.startswith("gamebroker.dead"):
                answer = asyncio.get_running_loop().create_future()
                answer.set_exception(StreamFull())
                return answer
            return super().append(record, timeout=timeout)

    backend = NoRoom(MemoryHub())
    sb = await broker_with_stream(backend)

    async def fail(_msg):
        raise LookupError("no such player")

    async with sb:
        await sb.consume("s.a", fail, durable="w", max_deliver=1, backoff=[0.02])
        await sb.enqueue("s.a", {"n": 1})
        await eventually(lambda: sb.stats.naked >= 2)
        assert sb.stats.terminated == 0
        backend.full = False
        await eventually(lambda: sb.stats.terminated == 1)
        letters = [each async for each in sb.dead_letters.list()]
        assert [(each.error_type, each.error) for each in letters] == [("LookupError", "no such player")] or [
            each.error_type for each in letters
        ] == ["AttemptsExhausted"]


async def test_a_message_whose_handlers_never_returned_ends_before_the_handler_runs():
    hub = MemoryHub()
    dying = await broker_with_stream(MemoryBackend(hub))
    await dying.enqueue("s.a", 1)
    async with dying.pull("s.a", durable="w", ack_wait=0.05, max_ack_pending=256) as pulled:
        for _ in range(3):  # three processes take it and die without a word
            (message,) = await pulled.fetch(1, timeout=2)
    assert message.attempt == 3
    ran = []
    async with StreamBroker(MemoryBackend(hub)) as sb:
        await sb.consume("s.a", ran.append, durable="w", ack_wait=0.05, max_deliver=3)
        await eventually(lambda: sb.stats.dead_lettered == 1)
        assert ran == []
    await dying.aclose()


async def test_a_message_too_near_the_limit_is_buried_as_a_reference_and_replayed_whole():
    sb = await broker_with_stream(MemoryBackend(MemoryHub(max_payload=4096)))

    async def fail(_msg):
        raise LookupError("x" * 5000)

    async with sb:
        consumption = await sb.consume("s.a", fail, durable="w", max_deliver=1)
        body = b"b" * 3900
        await sb.enqueue("s.a", body, idempotency_key="k", headers={"mine": "kept"})
        await eventually(lambda: sb.stats.terminated == 1)
        await consumption.drain()
        (letter,) = [each async for each in sb.dead_letters.list()]
        assert (letter.complete, letter.data, letter.error_type) == (False, b"", "LookupError")
        assert await sb.dead_letters.replay(letter) == 1
        again = await sb.streams.get_last("S", "s.a")
        assert (again.data, again.idempotency_key, dict(again.headers)) == (body, "k", {"mine": "kept"})


async def test_what_somebody_else_wrote_among_the_dead_letters_breaks_no_listing():
    sb = await broker_with_stream()
    async with sb:
        await (await sb.consume("s.a", print, durable="w")).drain()
        await sb.publish("gamebroker.dead.x.y", b"not ours")
        await eventually(lambda: _count(sb))
        (letter,) = [each async for each in sb.dead_letters.list()]
        assert (letter.attempts, letter.reason) == (0, "")


async def _count(sb):
    return (await sb.streams.info("GAMEBROKER_DEAD_LETTERS")).messages


async def test_a_stream_that_cannot_take_dead_letters_is_found_at_the_start():
    sb = await broker_with_stream()
    async with sb:
        await sb.declare(StreamOptions("GAMEBROKER_DEAD_LETTERS", ["elsewhere.>"]))
        with pytest.raises(ConfigDrift):
            await sb.consume("s.a", print, durable="w")
