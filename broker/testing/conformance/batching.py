"""Batch handlers: lists of messages, each with an outcome of its own."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from broker import Entry, InvalidOption
from broker.testing.conformance.scene import WORKER, Conformance, a_stream, bodies, idle, letters
from broker.testing.waiting import eventually, never

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker import StreamBroker, StreamMessage
    from broker.testing.conformance.scene import Connect

    Handler = Callable[[list[StreamMessage]], Any]
    Kind = Callable[[Handler], Handler]


def as_task(handle: Handler) -> Handler:
    """The same as an ``async def``."""

    async def handler(batch: list[StreamMessage]) -> None:
        await asyncio.sleep(0)
        handle(batch)

    return handler


def as_is(handle: Handler) -> Handler:
    """A plain function."""
    return handle


both_kinds = pytest.mark.parametrize("kind", [as_is, as_task], ids=["plain", "async"])


async def filled(sb: StreamBroker, number: int) -> str:
    """A new stream with so many messages on ``a``."""
    name = await a_stream(sb)
    await sb.enqueue_many(Entry(f"{name}.a", n) for n in range(number))
    return name


class BatchConformance(Conformance):
    """Promises of ``consume(batch_size=...)``."""

    @both_kinds
    async def test_a_full_batch_is_handed_over_at_once(self, connect: Connect, kind: Kind) -> None:
        sb, batches = await connect(), list[list[Any]]()
        name = await filled(sb, 6)
        handler = kind(lambda batch: batches.append(bodies(batch)))
        await sb.consume(f"{name}.a", handler, durable=WORKER, batch_size=3, batch_timeout=60, concurrency=1)
        await eventually(lambda: batches == [[0, 1, 2], [3, 4, 5]])
        await eventually(lambda: idle(sb, name, WORKER))
        assert sb.stats.acked == 6

    @both_kinds
    async def test_what_is_not_full_waits_no_longer_than_asked(self, connect: Connect, kind: Kind) -> None:
        sb, batches = await connect(), list[list[Any]]()
        name = await filled(sb, 2)
        handler = kind(lambda batch: batches.append(bodies(batch)))
        await sb.consume(f"{name}.a", handler, durable=WORKER, batch_size=100, batch_timeout=0.4)
        await never(lambda: batches, during=0.1)
        await eventually(lambda: batches == [[0, 1]])
        await eventually(lambda: idle(sb, name, WORKER))
        await sb.enqueue(f"{name}.a", 2)
        await eventually(lambda: batches == [[0, 1], [2]])

    async def test_each_message_may_have_its_own_outcome(self, connect: Connect) -> None:
        sb, attempts = await connect(), list[tuple[Any, int]]()
        name = await filled(sb, 4)

        async def handler(batch: list[StreamMessage]) -> None:
            attempts.extend((msg.json(), msg.attempt) for msg in batch)
            for msg in batch:
                if msg.json() == 1 and msg.attempt == 1:
                    await msg.nak(delay=0.05)
                if msg.json() == 2:
                    await msg.term("no such player")
            if batch[0].attempt == 1:
                await batch[0].ack()

        await sb.consume(f"{name}.a", handler, durable=WORKER, batch_size=4, batch_timeout=0.1)
        await eventually(lambda: (1, 2) in attempts)
        await eventually(lambda: idle(sb, name, WORKER))
        assert sorted(attempts) == [(0, 1), (1, 1), (1, 2), (2, 1), (3, 1)]
        (letter,) = await letters(sb, stream=name)
        assert letter.reason == "no such player"

    @both_kinds
    async def test_raising_settles_what_is_not_settled_as_failed(self, connect: Connect, kind: Kind) -> None:
        sb, batches = await connect(), list[list[tuple[Any, int]]]()
        name = await filled(sb, 3)

        def handle(batch: list[StreamMessage]) -> None:
            batches.append([(msg.json(), msg.attempt) for msg in batch])
            if any(msg.json() == 1 for msg in batch):
                raise LookupError("one of them")

        await sb.consume(
            f"{name}.a", kind(handle), durable=WORKER, batch_size=3, batch_timeout=0.2, max_deliver=2, backoff=(0.05,)
        )
        await eventually(lambda: sb.stats.dead_lettered)
        await eventually(lambda: idle(sb, name, WORKER))
        found = await letters(sb, stream=name)
        assert batches[0] == [(0, 1), (1, 1), (2, 1)]
        assert b"1" in {letter.data for letter in found}
        assert {letter.error_type for letter in found} == {"LookupError"}

    async def test_raising_after_everything_was_settled_is_told(self, connect: Connect) -> None:
        sb = await connect()
        name = await filled(sb, 2)

        async def handler(batch: list[StreamMessage]) -> None:
            for msg in batch:
                await msg.ack()
            raise LookupError("afterwards")

        await sb.consume(f"{name}.a", handler, durable=WORKER, batch_size=2)
        await eventually(lambda: sb.stats.handler_errors == 1)
        await eventually(lambda: idle(sb, name, WORKER))
        assert (sb.stats.acked, sb.stats.naked) == (2, 0)

    async def test_a_batch_that_takes_long_is_not_delivered_twice(self, connect: Connect) -> None:
        sb, attempts = await connect(), list[int]()
        name = await filled(sb, 3)

        async def handler(batch: list[StreamMessage]) -> None:
            attempts.extend(msg.attempt for msg in batch)
            await asyncio.sleep(1.5)

        await sb.consume(f"{name}.a", handler, durable=WORKER, batch_size=3, ack_wait=0.9)
        await eventually(lambda: idle(sb, name, WORKER))
        assert attempts == [1, 1, 1]

    async def test_gathering_longer_than_the_ack_wait_is_not_delivered_twice(self, connect: Connect) -> None:
        sb, attempts = await connect(), list[int]()
        name = await filled(sb, 2)

        async def handler(batch: list[StreamMessage]) -> None:
            attempts.extend(msg.attempt for msg in batch)

        await sb.consume(f"{name}.a", handler, durable=WORKER, batch_size=10, batch_timeout=2, ack_wait=0.9)
        await eventually(lambda: idle(sb, name, WORKER))
        assert attempts == [1, 1]

    async def test_as_many_batches_at_once_as_asked_and_nothing_ahead(self, connect: Connect) -> None:
        sb, running, opened = await connect(), list[int](), asyncio.Event()
        name = await filled(sb, 20)

        async def handler(batch: list[StreamMessage]) -> None:
            running.append(len(batch))
            await opened.wait()

        worker = await sb.consume(f"{name}.a", handler, durable=WORKER, batch_size=4, concurrency=2, batch_timeout=60)
        await eventually(lambda: running == [4, 4])
        await never(lambda: worker.in_hand > 8, during=0.1)
        opened.set()
        await eventually(lambda: idle(sb, name, WORKER))
        assert running == [4] * 5

    async def test_draining_finishes_a_batch_and_gives_the_gathered_back(self, connect: Connect) -> None:
        sb, begun, opened, rest = await connect(), list[Any](), asyncio.Event(), list[Any]()
        name = await filled(sb, 5)

        async def handler(batch: list[StreamMessage]) -> None:
            begun.extend(bodies(batch))
            await opened.wait()

        worker = await sb.consume(
            f"{name}.a", handler, durable=WORKER, batch_size=3, batch_timeout=60, concurrency=2, ack_wait=30
        )
        await eventually(lambda: begun == [0, 1, 2] and worker.in_hand == 5)
        draining = asyncio.create_task(worker.drain())
        await never(draining.done, during=0.05)
        opened.set()
        async with asyncio.timeout(10):
            await draining
        await (await connect()).consume(f"{name}.a", rest.append, durable=WORKER, ack_wait=30)
        await eventually(lambda: sorted(bodies(rest)) == [3, 4])

    async def test_a_drain_that_takes_too_long_gives_the_whole_batch_back(self, connect: Connect) -> None:
        sb, begun, seen = await connect(), list[Any](), list[Any]()
        name = await filled(sb, 3)

        async def handler(batch: list[StreamMessage]) -> None:
            await batch[0].ack()
            begun.extend(batch)
            await asyncio.Event().wait()

        worker = await sb.consume(f"{name}.a", handler, durable=WORKER, batch_size=3, ack_wait=30)
        await eventually(lambda: len(begun) == 3)
        async with asyncio.timeout(10):
            await worker.drain(timeout=0.1)
        await (await connect()).consume(f"{name}.a", seen.append, durable=WORKER, ack_wait=30)
        await eventually(lambda: sorted(bodies(seen)) == [1, 2])

    @both_kinds
    async def test_a_pause_keeps_the_batch_together(self, connect: Connect, kind: Kind) -> None:
        sb, batches = await connect(), list[list[tuple[Any, int]]]()
        name = await filled(sb, 3)

        def handle(batch: list[StreamMessage]) -> None:
            batches.append([(msg.json(), msg.attempt) for msg in batch])
            if len(batches) == 1:
                raise OSError("database down")

        await sb.consume(
            f"{name}.a",
            kind(handle),
            durable=WORKER,
            batch_size=3,
            max_deliver=1,
            on_error={OSError: "pause"},
            pause_for=0.2,
        )
        await eventually(lambda: batches == [[(0, 1), (1, 1), (2, 1)]] * 2)
        await eventually(lambda: idle(sb, name, WORKER))

    @pytest.mark.parametrize(
        "options",
        [{"batch_size": 0}, {"batch_size": 1.5}, {"batch_timeout": 0}, {"batch_size": 300, "max_ack_pending": 256}],
        ids=str,
    )
    async def test_a_batch_that_makes_no_sense_is_refused(self, connect: Connect, options: dict[str, Any]) -> None:
        sb = await connect()
        with pytest.raises(InvalidOption) as caught:
            await sb.consume("a", print, durable=WORKER, **options)
        assert caught.value.option in options
