"""Consuming: stored messages reach workers who share them, each until it is settled."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from broker import (
    ConfigDrift,
    ConsumerNotFound,
    ConsumerOptions,
    Entry,
    StreamNotFound,
)
from broker.testing.conformance.scene import WORKER, Conformance, Gate, a_stream, bodies, idle, listed, slowly_into
from broker.testing.waiting import eventually, never

if TYPE_CHECKING:
    from broker import StreamMessage
    from broker.testing.conformance.scene import Connect


class ConsumeConformance(Conformance):
    """Promises of ``consume`` while handlers do their work."""

    async def test_returning_is_the_ack(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.settle", {"winner": "ann"})

        async def settle(msg: StreamMessage) -> None:
            seen.append(msg.json())

        await sb.consume(f"{name}.settle", settle, durable=WORKER)
        await eventually(lambda: seen == [{"winner": "ann"}])
        info = await eventually(lambda: idle(sb, name, WORKER))
        assert info.ack_floor == 1
        assert sb.stats.acked == 1

    async def test_what_is_enqueued_later_is_handled_too(self, connect: Connect) -> None:
        sb, other, seen = await connect(), await connect(), list[Any]()
        name = await a_stream(sb)
        await sb.consume(f"{name}.>", seen.append, durable=WORKER)
        for number in range(20):
            await other.enqueue(f"{name}.a", number)
        await eventually(lambda: bodies(seen) == list(range(20)))

    async def test_a_plain_handler_runs_inline(self, connect: Connect) -> None:
        sb, tasks = await connect(), list[Any]()
        name = await a_stream(sb)
        await sb.enqueue_many(Entry(f"{name}.a", n) for n in range(10))

        def handle(_: StreamMessage) -> None:
            tasks.append(asyncio.current_task())

        await sb.consume(f"{name}.a", handle, durable=WORKER)
        await eventually(lambda: len(tasks) == 10)
        assert len(set(tasks)) == 1
        await eventually(lambda: idle(sb, name, WORKER))

    async def test_a_message_tells_all_about_itself(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.a", b"body", idempotency_key="battle-1", headers={"Room": "42"})
        await sb.enqueue(f"{name}.a", b"")
        await sb.consume(f"{name}.>", seen.append, durable=WORKER)
        first, second = await eventually(lambda: seen if len(seen) == 2 else None) or []
        assert (first.subject, first.data, dict(first.headers)) == (f"{name}.a", b"body", {"Room": "42"})
        assert (first.stream, first.sequence, first.consumer, first.attempt) == (name, 1, WORKER, 1)
        assert (first.idempotency_key, second.idempotency_key) == ("battle-1", None)
        assert abs(datetime.now(UTC) - first.timestamp) < timedelta(minutes=5)
        assert second.pending == 0

    async def test_pending_counts_down(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb)
        await sb.enqueue_many(Entry(f"{name}.a", n) for n in range(5))
        await sb.consume(f"{name}.a", seen.append, durable=WORKER)
        await eventually(lambda: len(seen) == 5)
        assert [m.pending for m in seen] == [4, 3, 2, 1, 0]

    async def test_only_its_own_subject_is_handled(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb)
        for number in range(9):
            await sb.enqueue(f"{name}.{number % 3}.x", number)
        await sb.consume(f"{name}.1.*", seen.append, durable=WORKER)
        await eventually(lambda: bodies(seen) == [1, 4, 7])
        await eventually(lambda: idle(sb, name, WORKER))

    async def test_as_many_handlers_run_at_once_as_asked(self, connect: Connect) -> None:
        sb, gate = await connect(), Gate()
        name = await a_stream(sb)
        await sb.enqueue_many(Entry(f"{name}.a", n) for n in range(12))
        await sb.consume(f"{name}.a", gate.handle, durable=WORKER, concurrency=4)
        await eventually(lambda: gate.running == 4)
        await never(lambda: gate.running > 4, during=0.05)
        gate.open()
        await eventually(lambda: len(gate.finished) == 12)
        assert gate.most == 4

    async def test_a_slow_message_holds_up_no_other(self, connect: Connect) -> None:
        sb, over, seen = await connect(), asyncio.Event(), list[int]()
        name = await a_stream(sb)
        await sb.enqueue_many(Entry(f"{name}.a", n) for n in range(20))

        async def handle(msg: StreamMessage) -> None:
            if msg.json() == 0:
                await over.wait()
            seen.append(msg.json())

        await sb.consume(f"{name}.a", handle, durable=WORKER, concurrency=2)
        await eventually(lambda: seen == list(range(1, 20)))
        over.set()
        await eventually(lambda: seen[-1] == 0)

    async def test_a_busy_worker_holds_no_more_than_it_works_on(self, connect: Connect) -> None:
        sb, gate, seen = await connect(), Gate(), list[Any]()
        name = await a_stream(sb)
        await sb.enqueue_many(Entry(f"{name}.a", n) for n in range(20))
        busy = await sb.consume(f"{name}.a", gate.handle, durable=WORKER, concurrency=2, ack_wait=30)
        await eventually(lambda: gate.running == 2)
        assert busy.in_hand <= 2
        await (await connect()).consume(f"{name}.a", seen.append, durable=WORKER, ack_wait=30)
        await eventually(lambda: len(seen) == 18)
        assert not set(bodies(seen)) & set(bodies(gate.started))

    async def test_two_workers_share_the_work(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        boxes: list[list[Any]] = [[], []]
        for box in boxes:
            await (await connect()).consume(f"{name}.a", slowly_into(box), queue="workers", concurrency=2)
        await sb.enqueue_many(Entry(f"{name}.a", n) for n in range(100))
        await eventually(lambda: sum(map(len, boxes)) >= 100)
        await eventually(lambda: idle(sb, name, "workers"))
        assert sorted(bodies(boxes[0] + boxes[1])) == list(range(100))
        assert all(boxes), "the work is shared"

    async def test_two_groups_each_get_everything(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        boxes: dict[str, list[Any]] = {"settlement": [], "audit": []}
        await sb.enqueue_many(Entry(f"{name}.a", n) for n in range(10))
        for group, box in boxes.items():
            await sb.consume(f"{name}.a", box.append, queue=group)
        await eventually(lambda: [bodies(box) for box in boxes.values()] == [list(range(10))] * 2)

    async def test_the_position_outlives_the_worker(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb)
        first = await connect()
        await first.consume(f"{name}.a", seen.append, durable=WORKER)
        await sb.enqueue_many(Entry(f"{name}.a", n) for n in range(5))
        await eventually(lambda: len(seen) == 5)
        await first.drain()
        await sb.enqueue(f"{name}.a", 5)
        await (await connect()).consume(f"{name}.a", seen.append, durable=WORKER)
        await eventually(lambda: bodies(seen) == list(range(6)))

    async def test_queue_and_durable_default_to_each_other(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await sb.consume(f"{name}.a", print, queue="by-queue")
        await sb.consume(f"{name}.a", print, durable="by-durable")
        await sb.consume(f"{name}.a", print, durable="position", queue="group")
        assert sorted(await listed(sb.consumers.names(name))) == ["by-durable", "by-queue", "position"]

    async def test_a_long_handler_is_not_delivered_twice(self, connect: Connect) -> None:
        sb, attempts = await connect(), list[int]()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.a", 1)

        async def handle(msg: StreamMessage) -> None:
            attempts.append(msg.attempt)
            await asyncio.sleep(1.5)

        await sb.consume(f"{name}.a", handle, durable=WORKER, ack_wait=0.9)
        await (await connect()).consume(f"{name}.a", handle, durable=WORKER, ack_wait=0.9)
        await eventually(lambda: attempts)
        await eventually(lambda: idle(sb, name, WORKER))
        assert attempts == [1]

    async def test_without_auto_extend_it_is(self, connect: Connect) -> None:
        sb, attempts = await connect(), list[int]()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.a", 1)

        async def handle(msg: StreamMessage) -> None:
            attempts.append(msg.attempt)
            await asyncio.sleep(0 if msg.attempt > 1 else 1.0)

        for worker in (sb, await connect()):
            await worker.consume(f"{name}.a", handle, durable=WORKER, ack_wait=0.3, auto_extend=False, concurrency=1)
        await eventually(lambda: attempts == [1, 2])

    async def test_saying_in_progress_by_hand_holds_it(self, connect: Connect) -> None:
        sb, attempts = await connect(), list[int]()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.a", 1)

        async def handle(msg: StreamMessage) -> None:
            attempts.append(msg.attempt)
            for _ in range(6):
                await asyncio.sleep(0.2)
                await msg.in_progress()

        await sb.consume(f"{name}.a", handle, durable=WORKER, ack_wait=0.9, auto_extend=False)
        await eventually(lambda: attempts)
        await eventually(lambda: idle(sb, name, WORKER))
        assert attempts == [1]

    async def test_a_lost_worker_is_replaced_after_the_ack_wait(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.a", 1)
        async with sb.pull(f"{name}.a", durable=WORKER, ack_wait=0.3) as puller:
            [taken] = await puller.fetch(1, timeout=5)
            assert taken.attempt == 1
            await (await connect()).consume(
                f"{name}.a", seen.append, durable=WORKER, max_ack_pending=1000, ack_wait=0.3
            )
            await eventually(lambda: seen)
        assert seen[0].attempt == 2

    async def test_a_shorter_ack_wait_of_a_bound_consumer_is_found_out(self, connect: Connect) -> None:
        sb, gate, others = await connect(), Gate(), list[Any]()
        name = await a_stream(sb)
        await sb.consumers.create(ConsumerOptions(stream=name, durable=WORKER, filters=(f"{name}.a",), ack_wait=1))
        await sb.consume(f"{name}.a", gate.handle, durable=WORKER, stream=name, ensure="bind", ack_wait=60)
        await sb.enqueue(f"{name}.a", 1)
        await eventually(lambda: sb.stats.extended > 1, within=15)
        await (await connect()).consume(f"{name}.a", others.append, durable=WORKER, stream=name, ensure="bind")
        await never(lambda: others, during=2.5)
        gate.open()
        await eventually(lambda: idle(sb, name, WORKER))
        assert len(gate.started) == 1

    async def test_pausing_holds_the_work_and_resuming_goes_on(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb)
        worker = await sb.consume(f"{name}.a", seen.append, durable=WORKER)
        await sb.enqueue(f"{name}.a", 0)
        await eventually(lambda: len(seen) == 1)
        await worker.pause()
        await sb.enqueue(f"{name}.a", 1)
        await never(lambda: len(seen) > 1, during=0.1)
        await worker.resume()
        await eventually(lambda: bodies(seen) == [0, 1])

    @pytest.mark.parametrize("push", [False, True], ids=["consume", "push"])
    async def test_pausing_without_a_name_loses_and_repeats_nothing(
        self,
        connect: Connect,
        push: bool,  # noqa: FBT001 - pytest passes it by name
    ) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb, retention="interest")
        worker = await (sb.push_subscribe if push else sb.consume)(f"{name}.a", seen.append)
        await sb.enqueue_many(Entry(f"{name}.a", n) for n in range(5))
        await eventually(lambda: len(seen) == 5)
        await worker.pause()
        await asyncio.sleep(0.2)
        await sb.enqueue_many(Entry(f"{name}.a", n) for n in range(5, 8))
        await never(lambda: len(seen) > 5, during=0.2)
        await worker.resume()
        await sb.enqueue(f"{name}.a", 8)
        await eventually(lambda: len(seen) >= 9)
        assert [(msg.json(), msg.attempt) for msg in seen] == [(n, 1) for n in range(9)]
        assert len(await listed(sb.consumers.names(name))) == 1
        await worker.drain()
        assert await listed(sb.consumers.names(name)) == []

    async def test_pausing_without_a_name_gives_back_what_was_not_started(self, connect: Connect) -> None:
        sb, gate = await connect(), Gate()
        name = await a_stream(sb)
        worker = await sb.consume(f"{name}.a", gate.handle, concurrency=1, ack_wait=30)
        await sb.enqueue_many(Entry(f"{name}.a", n) for n in range(3))
        await eventually(lambda: gate.running == 1)
        await worker.pause()
        gate.open()
        await eventually(lambda: worker.in_hand == 0)
        await never(lambda: len(gate.started) > 1, during=0.2)
        await worker.resume()
        await eventually(lambda: sorted(bodies(gate.finished)) == [0, 1, 2])


class ConsumerAdminConformance(Conformance):
    """Promises of ``consumers``: what is there, how it is set, and how far it got."""

    async def test_names_and_list_give_every_consumer(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        assert await listed(sb.consumers.names(name)) == []
        for worker in ("b", "a", "c"):
            await sb.consume(f"{name}.a", print, durable=worker)
        assert sorted(await listed(sb.consumers.names(name))) == ["a", "b", "c"]
        assert sorted(info.name for info in await listed(sb.consumers.list(name))) == ["a", "b", "c"]

    async def test_info_tells_settings_and_progress(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await sb.enqueue_many(Entry(f"{name}.a", n) for n in range(5))
        async with sb.pull(f"{name}.a", durable=WORKER, queue="group", ack_wait=20, max_ack_pending=77) as puller:
            messages = await puller.fetch(2, timeout=5)
            for message in messages[:1]:
                await message.ack(confirm=True)
            info = await sb.consumers.info(name, WORKER)
        assert (info.stream, info.name, info.ack_pending, info.ack_floor) == (name, WORKER, len(messages) - 1, 1)
        assert (info.delivered_sequence, info.pending) == (len(messages), 5 - len(messages))
        assert (info.config.durable, info.config.queue, info.config.filters) == (WORKER, "group", (f"{name}.a",))
        assert (info.config.ack_wait, info.config.max_ack_pending) == (20.0, 77)

    async def test_a_deleted_consumer_is_gone(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await (await sb.consume(f"{name}.a", print, durable=WORKER)).drain()
        await sb.consumers.delete(name, WORKER)
        with pytest.raises(ConsumerNotFound):
            await sb.consumers.info(name, WORKER)
        with pytest.raises(ConsumerNotFound):
            await sb.consumers.delete(name, WORKER)

    async def test_consumers_of_no_stream_are_told(self, connect: Connect) -> None:
        sb = await connect()
        with pytest.raises(StreamNotFound):
            await listed(sb.consumers.names("nowhere"))
        with pytest.raises((StreamNotFound, ConsumerNotFound)):
            await sb.consumers.info("nowhere", WORKER)

    async def test_two_groups_cannot_share_a_position_by_accident(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await sb.consume(f"{name}.a", print, durable=WORKER, queue="settlement")
        with pytest.raises(ConfigDrift):
            await sb.consume(f"{name}.a", print, durable=WORKER, queue="audit")
