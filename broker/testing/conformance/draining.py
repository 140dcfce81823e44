"""Ending: nothing half-done, nothing kept from the others."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from broker import Entry
from broker.testing.conformance.scene import WORKER, Conformance, Gate, a_stream, bodies, fresh, idle
from broker.testing.waiting import eventually, never

if TYPE_CHECKING:
    from broker import Message, StreamMessage
    from broker.testing.conformance.scene import Connect


class DrainConformance(Conformance):
    """Promises of ending: nothing half-done, nothing kept from the others."""

    async def test_drain_finishes_sixteen_handlers_and_nothing_is_redelivered(self, connect: Connect) -> None:
        sb, gate, seen = await connect(), Gate(), list[Any]()
        name = await a_stream(sb)
        await sb.enqueue_many(Entry(f"{name}.a", n) for n in range(20))
        worker = await sb.consume(f"{name}.a", gate.handle, durable=WORKER, concurrency=16, ack_wait=30)
        await eventually(lambda: gate.running == 16)
        draining = asyncio.create_task(worker.drain())
        await never(draining.done, during=0.05)
        gate.open()
        async with asyncio.timeout(5):
            await draining
        assert len(gate.finished) == 16
        await (await connect()).consume(f"{name}.a", seen.append, durable=WORKER, ack_wait=30)
        await eventually(lambda: idle(sb, name, WORKER))
        assert sorted(bodies(seen + gate.finished)) == list(range(20))

    async def test_a_drained_consumption_takes_nothing_more(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb)
        worker = await sb.consume(f"{name}.a", seen.append, durable=WORKER)
        await worker.drain()
        await sb.enqueue(f"{name}.a", 1)
        await never(lambda: seen, during=0.05)
        async with asyncio.timeout(2):
            await worker.drain()
            await worker.wait()

    async def test_draining_the_broker_finishes_handlers_and_closes(self, connect: Connect) -> None:
        sb, watcher, gate = await connect(), await connect(), Gate()
        name = await a_stream(sb)
        await sb.enqueue_many(Entry(f"{name}.a", n) for n in range(3))
        await sb.consume(f"{name}.a", gate.handle, durable=WORKER, ack_wait=30)
        await eventually(lambda: gate.running == 3)
        draining = asyncio.create_task(sb.drain())
        await never(draining.done, during=0.05)
        gate.open()
        async with asyncio.timeout(5):
            await draining
        info = await eventually(lambda: idle(watcher, name, WORKER))
        assert info.ack_floor == 3
        assert sb.status == "closed"

    async def test_handlers_may_still_send_while_draining(self, connect: Connect) -> None:
        sb, watcher, gate = await connect(), await connect(), Gate()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.a", 1)

        async def handle(msg: StreamMessage) -> None:
            await gate.handle(msg)
            await sb.enqueue(f"{name}.result", "done")

        await sb.consume(f"{name}.a", handle, durable=WORKER)
        await eventually(lambda: gate.started)
        draining = asyncio.create_task(sb.drain())
        await asyncio.sleep(0.05)
        gate.open()
        async with asyncio.timeout(5):
            await draining
        last = await watcher.streams.get_last(name, f"{name}.result")
        assert last is not None
        assert last.json() == "done"

    async def test_a_drain_that_takes_too_long_gives_back_what_still_runs(self, connect: Connect) -> None:
        sb, gate, seen = await connect(), Gate(), list[Any]()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.a", 1)
        worker = await sb.consume(f"{name}.a", gate.handle, durable=WORKER, ack_wait=30)
        await eventually(lambda: gate.running)
        async with asyncio.timeout(5):
            await worker.drain(timeout=0.1)
        assert (gate.running, gate.finished) == (0, [])
        await (await connect()).consume(f"{name}.a", seen.append, durable=WORKER, ack_wait=30)
        await eventually(lambda: bodies(seen) == [1])

    async def test_closing_gives_everything_back_at_once(self, connect: Connect) -> None:
        sb, other, gate, seen = await connect(), await connect(), Gate(), list[Any]()
        name = await a_stream(sb)
        await sb.enqueue_many(Entry(f"{name}.a", n) for n in range(10))
        await sb.consume(f"{name}.a", gate.handle, durable=WORKER, concurrency=4, ack_wait=30)
        await eventually(lambda: gate.running == 4)
        async with asyncio.timeout(5):
            await sb.aclose()
        assert gate.running == 0
        await other.consume(f"{name}.a", seen.append, durable=WORKER, ack_wait=30)
        await eventually(lambda: len(seen) == 10)
        assert sorted(bodies(seen)) == list(range(10))

    async def test_waiting_for_a_consumption_can_be_cancelled(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb)
        worker = await sb.consume(f"{name}.a", seen.append, durable=WORKER)
        waiting = asyncio.create_task(worker.wait())
        await never(waiting.done, during=0.05)
        waiting.cancel()
        async with asyncio.timeout(5):
            with pytest.raises(asyncio.CancelledError):
                await waiting

    async def test_who_waits_for_a_consumption_waits_for_its_handlers(self, connect: Connect) -> None:
        sb, gate = await connect(), Gate()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.a", 1)
        worker = await sb.consume(f"{name}.a", gate.handle, durable=WORKER)
        await eventually(lambda: gate.running)
        waiting = asyncio.create_task(worker.wait())
        draining = asyncio.create_task(worker.drain())
        await never(waiting.done, during=0.2)
        gate.open()
        async with asyncio.timeout(10):
            await waiting
            await draining
        assert len(gate.finished) == 1

    @pytest.mark.parametrize("whole", [False, True], ids=["consumption", "broker"])
    async def test_handlers_that_drain_at_once_do_not_wait_for_each_other(
        self, connect: Connect, *, whole: bool
    ) -> None:
        sb, running, returned = await connect(), asyncio.Barrier(2), list[int]()
        name = await a_stream(sb)
        await sb.enqueue_many(Entry(f"{name}.a", n) for n in range(2))

        async def handle(msg: StreamMessage) -> None:
            await running.wait()
            await (sb if whole else worker).drain(timeout=60)
            returned.append(msg.json())

        worker = await sb.consume(f"{name}.a", handle, durable=WORKER, ack_wait=30)
        await eventually(lambda: sorted(returned) == [0, 1])

    async def test_responders_and_subscribers_that_drain_at_once_do_not_wait_for_each_other(
        self, connect: Connect
    ) -> None:
        sb, other, running, returned = await connect(), await connect(), asyncio.Barrier(3), list[str]()
        name = fresh("drain")

        async def handle(msg: Message) -> None:
            await running.wait()
            await sb.drain(timeout=60)
            returned.append(msg.subject)

        await sb.respond(f"{name}.ask", handle)
        await sb.subscribe(f"{name}.tell", handle)
        await sb.flush()
        for each in ("ask", "ask", "tell"):
            await other.publish(f"{name}.{each}", b"")
        await eventually(lambda: sorted(returned) == [f"{name}.ask", f"{name}.ask", f"{name}.tell"])

    async def test_in_hand_counts_what_is_held(self, connect: Connect) -> None:
        sb, gate = await connect(), Gate()
        name = await a_stream(sb)
        await sb.enqueue_many(Entry(f"{name}.a", n) for n in range(3))
        worker = await sb.consume(f"{name}.a", gate.handle, durable=WORKER)
        await eventually(lambda: worker.in_hand == 3)
        gate.open()
        await eventually(lambda: worker.in_hand == 0)
