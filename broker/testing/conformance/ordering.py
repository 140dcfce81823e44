"""Order: what is promised to stay in order does, and what is not promised is not pretended."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from broker import Entry
from broker.testing.conformance.scene import WORKER, Conformance, Gate, a_stream, arrived, bodies, fresh, idle
from broker.testing.waiting import eventually

if TYPE_CHECKING:
    from broker import StreamMessage
    from broker.testing.conformance.scene import Connect


class OrderingConformance(Conformance):
    """Which verbs keep which order."""

    async def test_core_messages_of_one_sender_keep_their_order_over_subjects(self, connect: Connect) -> None:
        room, player, root, seen = await connect(), await connect(), fresh("battle"), list[Any]()
        await player.subscribe(f"{root}.>", seen.append)
        for tick in range(300):
            if tick % 2:
                room.publish_nowait(f"{root}.{tick % 5}", tick)
            else:
                await room.publish(f"{root}.{tick % 5}", tick)
        await eventually(lambda: len(seen) == 300)
        assert bodies(seen) == list(range(300))

    async def test_a_queue_group_of_one_keeps_the_order(self, connect: Connect) -> None:
        room, player, subject, seen = await connect(), await connect(), fresh("cmd"), list[Any]()
        await player.subscribe(subject, seen.append, queue="workers")
        for tick in range(100):
            room.publish_nowait(subject, tick)
        await eventually(lambda: bodies(seen) == list(range(100)))

    async def test_awaited_enqueues_are_stored_one_after_the_other(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        receipts = [await sb.enqueue(f"{name}.{n % 3}", n) for n in range(30)]
        assert [r.sequence for r in receipts] == list(range(1, 31))

    async def test_enqueue_many_stores_in_the_order_given_whatever_the_window(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb)
        for window in (1, 10, 500):
            await sb.enqueue_many((Entry(f"{name}.{window}", n) for n in range(100)), window=window)
            async with sb.read(f"{name}.{window}") as messages:
                seen = [(await anext(messages)).json() for _ in range(100)]
            assert seen == list(range(100))

    async def test_a_plain_handler_sees_the_order_of_the_stream(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb)
        await sb.enqueue_many(Entry(f"{name}.{n % 4}", n) for n in range(300))
        await sb.consume(f"{name}.>", seen.append, durable=WORKER)
        await eventually(lambda: len(seen) == 300)
        assert bodies(seen) == list(range(300))

    async def test_one_slot_sees_the_order_of_the_stream(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb)

        async def handle(msg: StreamMessage) -> None:
            await asyncio.sleep(0.002 if msg.json() % 2 else 0)
            seen.append(msg)

        await sb.enqueue_many(Entry(f"{name}.a", n) for n in range(60))
        await sb.consume(f"{name}.a", handle, durable=WORKER, concurrency=1)
        await eventually(lambda: len(seen) == 60)
        assert bodies(seen) == list(range(60))

    async def test_handlers_start_in_the_order_of_the_stream(self, connect: Connect) -> None:
        sb, gate = await connect(), Gate()
        name = await a_stream(sb)
        await sb.enqueue_many(Entry(f"{name}.a", n) for n in range(10))
        await sb.consume(f"{name}.a", gate.handle, durable=WORKER, concurrency=10)
        await eventually(lambda: len(gate.started) == 10)
        assert bodies(gate.started) == list(range(10))
        gate.open()
        await eventually(lambda: len(gate.finished) == 10)

    async def test_a_puller_sees_the_order_of_the_stream(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb)
        await sb.enqueue_many(Entry(f"{name}.a", n) for n in range(100))
        async with sb.pull(f"{name}.a", durable=WORKER) as puller:
            while len(seen) < 100:
                more = await puller.fetch(7, timeout=5)
                assert more
                seen += more
                for message in more:
                    await message.ack()
        assert bodies(seen) == list(range(100))

    async def test_only_what_failed_comes_later(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb)

        async def handle(msg: StreamMessage) -> None:
            if msg.json() == 3 and msg.attempt == 1:
                raise RuntimeError("once")
            seen.append(msg.json())

        await sb.enqueue_many(Entry(f"{name}.a", n) for n in range(10))
        await sb.consume(f"{name}.a", handle, durable=WORKER, concurrency=1, backoff=(0.4,))
        await eventually(lambda: len(seen) == 10)
        assert seen == [0, 1, 2, 4, 5, 6, 7, 8, 9, 3]

    async def test_the_order_holds_over_a_change_of_workers(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb)
        await sb.enqueue_many(Entry(f"{name}.a", n) for n in range(90))

        async def handle(msg: StreamMessage) -> None:
            await asyncio.sleep(0.001)
            seen.append(msg.json())

        for target in (30, 60, 90):
            worker = await (await connect()).consume(f"{name}.a", handle, durable=WORKER, concurrency=1)
            await arrived(seen, target)
            await worker.drain()
        await eventually(lambda: idle(sb, name, WORKER))
        assert seen == list(range(90))

    async def test_every_subject_keeps_its_order_for_every_reader(self, connect: Connect) -> None:
        sb, by_subject = await connect(), defaultdict[str, list[int]](list)
        name = await a_stream(sb)
        senders = [await connect() for _ in range(3)]
        await asyncio.gather(
            *(
                sender.enqueue_many([Entry(f"{name}.room{index}", n) for n in range(50)])
                for index, sender in enumerate(senders)
            )
        )
        async with sb.read(f"{name}.*", until=150) as messages:
            async for message in messages:
                by_subject[message.subject].append(message.json())
        assert by_subject == {f"{name}.room{index}": list(range(50)) for index in range(3)}
