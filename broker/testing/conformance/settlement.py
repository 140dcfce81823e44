"""Settling: what returns is done, what raises comes again later, and a handler may decide by itself."""

from __future__ import annotations

import asyncio
import logging
from itertools import pairwise
from time import monotonic
from typing import TYPE_CHECKING, Any

import pytest

from broker import AlreadySettled, Entry, InvalidOption
from broker.testing.conformance.scene import WORKER, Conformance, Gate, a_stream, idle, letters
from broker.testing.waiting import eventually

if TYPE_CHECKING:
    from broker import StreamMessage
    from broker.testing.conformance.scene import Connect


class SettlementConformance(Conformance):
    """Promises of ``consume`` when a handler raises, or decides by itself."""

    @pytest.mark.parametrize("plain", [True, False], ids=["plain", "async"])
    async def test_raising_gives_it_back_after_the_backoff_and_not_at_once(
        self,
        connect: Connect,
        plain: bool,  # noqa: FBT001 - pytest passes it by name
    ) -> None:
        sb, times = await connect(), list[float]()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.a", 1)

        def fail_once(msg: StreamMessage) -> None:
            times.append(monotonic())
            if msg.attempt == 1:
                raise RuntimeError("the ledger is busy")

        async def fail_once_async(msg: StreamMessage) -> None:
            fail_once(msg)

        handler = fail_once if plain else fail_once_async
        await sb.consume(f"{name}.a", handler, durable=WORKER, backoff=(0.2,))
        await eventually(lambda: len(times) == 2)
        assert times[1] - times[0] >= 0.19
        await eventually(lambda: idle(sb, name, WORKER))
        assert (sb.stats.handler_errors, sb.stats.naked, sb.stats.acked) == (1, 1, 1)

    @pytest.mark.parametrize("batch_size", [None, 1], ids=["single", "batch"])
    async def test_what_a_handler_gave_back_comes_again_while_it_still_works(
        self, connect: Connect, batch_size: int | None
    ) -> None:
        sb, gate, attempts = await connect(), Gate(), list[int]()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.a", 1)

        async def handle(told: Any) -> None:
            msg = told[0] if batch_size else told
            attempts.append(msg.attempt)
            if msg.attempt == 1:
                await msg.nak(delay=0.05)
                await gate.handle(msg)

        batches: dict[str, Any] = {"batch_size": batch_size, "batch_timeout": 0.05} if batch_size else {}
        worker = await sb.consume(f"{name}.a", handle, durable=WORKER, ack_wait=30, **batches)
        await eventually(lambda: attempts == [1, 2])
        await eventually(lambda: idle(sb, name, WORKER))
        assert gate.running == 1
        gate.open()
        await eventually(lambda: worker.in_hand == 0)
        assert (sb.stats.naked, sb.stats.acked) == (1, 1)

    async def test_a_failing_message_does_not_hold_up_the_others(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb)

        async def handle(msg: StreamMessage) -> None:
            if msg.json() == 0:
                raise RuntimeError("always")
            seen.append(msg.json())

        await sb.consume(f"{name}.a", handle, durable=WORKER, backoff=(30,), concurrency=1)
        await sb.enqueue_many(Entry(f"{name}.a", n) for n in range(10))
        await eventually(lambda: seen == list(range(1, 10)))

    async def test_each_attempt_waits_its_own_backoff_and_the_last_repeats(self, connect: Connect) -> None:
        sb, times = await connect(), list[float]()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.a", 1)

        async def handle(msg: StreamMessage) -> None:
            times.append(monotonic())
            if msg.attempt < 4:
                raise RuntimeError("again")

        await sb.consume(f"{name}.a", handle, durable=WORKER, backoff=(0.02, 0.15))
        await eventually(lambda: len(times) == 4)
        waits = [later - earlier for earlier, later in pairwise(times)]
        assert waits[1] >= 0.14
        assert waits[2] >= 0.14

    async def test_a_raise_is_logged_with_subject_sequence_and_attempt(
        self, connect: Connect, caplog: pytest.LogCaptureFixture
    ) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.a", 1)

        async def handle(msg: StreamMessage) -> None:
            if msg.attempt == 1:
                raise RuntimeError("the ledger is busy")

        with caplog.at_level(logging.WARNING):
            await sb.consume(f"{name}.a", handle, durable=WORKER, backoff=(0.05,))
            await eventually(lambda: sb.stats.acked == 1)
        [told] = [record.getMessage() for record in caplog.records if "the ledger is busy" in record.getMessage()]
        assert f"{name}.a" in told
        assert "sequence 1" in told
        assert "attempt 1" in told

    async def test_a_handler_raising_cancelled_error_does_not_end_the_consumption(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb)

        async def handle(msg: StreamMessage) -> None:
            seen.append((msg.json(), msg.attempt))
            if msg.json() == 0 and msg.attempt == 1:
                raise asyncio.CancelledError

        await sb.consume(f"{name}.a", handle, durable=WORKER, backoff=(0.05,))
        await sb.enqueue(f"{name}.a", 0)
        await eventually(lambda: (0, 2) in seen)
        await sb.enqueue(f"{name}.a", 1)
        await eventually(lambda: (1, 1) in seen)

    async def test_a_handler_may_ack_by_itself_and_then_return(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.a", 1)

        async def handle(msg: StreamMessage) -> None:
            seen.append(msg)
            await msg.ack()

        await sb.consume(f"{name}.a", handle, durable=WORKER)
        await eventually(lambda: idle(sb, name, WORKER))
        assert (len(seen), seen[0].settled, sb.stats.acked) == (1, True, 1)

    async def test_an_ack_counts_even_if_the_handler_raises_afterwards(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.a", 1)

        async def handle(msg: StreamMessage) -> None:
            seen.append(msg.attempt)
            await msg.ack()
            raise RuntimeError("too late")

        await sb.consume(f"{name}.a", handle, durable=WORKER, backoff=(0.05,))
        await eventually(lambda: sb.stats.handler_errors == 1)
        await eventually(lambda: idle(sb, name, WORKER))
        assert seen == [1]
        assert await letters(sb) == []

    async def test_a_confirmed_ack_is_known_to_the_server(self, connect: Connect) -> None:
        sb, floors = await connect(), list[int]()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.a", 1)

        async def handle(msg: StreamMessage) -> None:
            await msg.ack(confirm=True)
            floors.append((await sb.consumers.info(name, WORKER)).ack_floor)

        await sb.consume(f"{name}.a", handle, durable=WORKER)
        await eventually(lambda: floors == [1])

    async def test_a_nak_by_hand_chooses_its_own_delay(self, connect: Connect) -> None:
        sb, times = await connect(), list[float]()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.a", 1)

        async def handle(msg: StreamMessage) -> None:
            times.append(monotonic())
            if msg.attempt == 1:
                await msg.nak(delay=0.2)

        await sb.consume(f"{name}.a", handle, durable=WORKER, backoff=(60,))
        await eventually(lambda: len(times) == 2)
        assert times[1] - times[0] >= 0.19
        assert sb.stats.handler_errors == 0

    async def test_a_nak_without_delay_takes_the_backoff(self, connect: Connect) -> None:
        sb, times = await connect(), list[float]()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.a", 1)

        async def handle(msg: StreamMessage) -> None:
            times.append(monotonic())
            if msg.attempt == 1:
                await msg.nak()

        await sb.consume(f"{name}.a", handle, durable=WORKER, backoff=(0.2,))
        await eventually(lambda: len(times) == 2)
        assert times[1] - times[0] >= 0.19

    @pytest.mark.parametrize("first", ["ack", "nak", "term"])
    async def test_settling_twice_is_told_and_not_sent(self, connect: Connect, first: str) -> None:
        sb, raised = await connect(), list[str]()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.a", 1)

        async def handle(msg: StreamMessage) -> None:
            if msg.attempt > 1:
                return
            await getattr(msg, first)()
            for again in (msg.ack, msg.nak, msg.term, msg.in_progress):
                try:
                    await again()
                except AlreadySettled:
                    raised.append(again.__name__)

        await sb.consume(f"{name}.a", handle, durable=WORKER, backoff=(0.05,))
        await eventually(lambda: raised == ["ack", "nak", "term", "in_progress"])
        await eventually(lambda: idle(sb, name, WORKER))
        assert len(await letters(sb)) == (first == "term")

    async def test_a_negative_delay_is_refused_and_settles_nothing(self, connect: Connect) -> None:
        sb, settled = await connect(), list[bool]()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.a", 1)

        async def handle(msg: StreamMessage) -> None:
            with pytest.raises(InvalidOption):
                await msg.nak(delay=-1)
            settled.append(msg.settled)

        await sb.consume(f"{name}.a", handle, durable=WORKER)
        await eventually(lambda: settled == [False])
        await eventually(lambda: idle(sb, name, WORKER))
