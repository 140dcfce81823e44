"""Sweeping where nothing is to be swept: consumers of ours never have the server give up, whatever becomes of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from broker import ConsumerNotFound, Entry, InvalidSubject, StreamNotFound, Swept
from broker.testing.conformance.scene import WORKER, Conformance, Gate, a_stream, arrived, fresh, idle, letters
from broker.testing.waiting import eventually

if TYPE_CHECKING:
    from broker import StreamMessage
    from broker.testing.conformance.scene import Connect

NOTHING = Swept(written=0, gone=0, undecided=0, unknown=0)


class SweepConformance(Conformance):
    """Promises of ``dead_letters.sweep`` that hold for every backend."""

    async def test_a_stream_without_consumers_leaves_nothing_to_sweep(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.a", 1)
        assert await sb.dead_letters.sweep(name) == NOTHING
        assert [each async for each in sb.streams.names()] == [name]

    async def test_our_consumers_have_no_limit_on_the_server(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await sb.consume(f"{name}.a", lambda _: None, durable=WORKER, max_deliver=2)
        assert (await sb.consumers.info(name, WORKER)).max_deliver is None

    @pytest.mark.parametrize("retention", ["limits", "workqueue", "interest"])
    async def test_what_our_consumers_gave_up_on_is_not_written_twice(self, connect: Connect, retention: str) -> None:
        sb = await connect()
        name = await a_stream(sb, retention=retention)

        async def fail(_: StreamMessage) -> None:
            raise ValueError("never")

        await sb.consume(f"{name}.a", fail, durable=WORKER, max_deliver=2, backoff=(0.02,))
        await sb.enqueue_many(Entry(f"{name}.a", n) for n in range(3))
        await eventually(lambda: idle(sb, name, WORKER))
        before = await letters(sb)
        assert len(before) == 3
        assert await sb.dead_letters.sweep(name) == await sb.dead_letters.sweep(name, WORKER) == NOTHING
        assert await letters(sb) == before

    async def test_nothing_is_taken_from_a_worker(self, connect: Connect) -> None:
        sb, gate = await connect(), Gate()
        name = await a_stream(sb)
        await sb.consume(f"{name}.a", gate.handle, durable=WORKER, concurrency=1)
        await sb.enqueue_many(Entry(f"{name}.a", n) for n in range(3))
        await arrived(gate.started, 1)
        assert await sb.dead_letters.sweep(name) == NOTHING
        gate.open()
        await arrived(gate.finished, 3)
        assert [each.attempt for each in gate.finished] == [1, 1, 1]

    async def test_several_sweeps_at_once_disturb_nobody(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await (await sb.consume(f"{name}.a", lambda _: None, durable=WORKER)).drain()
        assert await asyncio.gather(*(sb.dead_letters.sweep(name) for _ in range(3))) == [NOTHING] * 3

    async def test_what_is_not_there_is_told(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        with pytest.raises(ConsumerNotFound):
            await sb.dead_letters.sweep(name, WORKER)
        with pytest.raises(StreamNotFound):
            await sb.dead_letters.sweep(fresh("stream"))

    @pytest.mark.parametrize("wrong", ["", "a.b", "a b", "*", ">"])
    async def test_a_name_that_is_none_is_refused(self, connect: Connect, wrong: str) -> None:
        sb = await connect()
        with pytest.raises(InvalidSubject):
            await sb.dead_letters.sweep(wrong)
        with pytest.raises(InvalidSubject):
            await sb.dead_letters.sweep("S", wrong)
