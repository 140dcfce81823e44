"""Consuming: stored messages reach workers who share them, each until it is settled."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from broker import (
    ConfigDrift,
    ConsumerGone,
    ConsumerNotFound,
    Entry,
    InvalidOption,
    NoStream,
    StreamError,
    StreamNotFound,
)
from broker.testing.conformance.scene import WORKER, Conformance, Gate, a_stream, bodies, idle, listed
from broker.testing.waiting import eventually, never

if TYPE_CHECKING:
    from broker import Consumption, StreamBroker, StreamMessage
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
            await (await connect()).consume(f"{name}.a", self._slowly_into(box), queue="workers", concurrency=2)
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
            await asyncio.sleep(0.8)

        await sb.consume(f"{name}.a", handle, durable=WORKER, ack_wait=0.3)
        await (await connect()).consume(f"{name}.a", handle, durable=WORKER, ack_wait=0.3)
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
            for _ in range(5):
                await asyncio.sleep(0.1)
                await msg.in_progress()

        await sb.consume(f"{name}.a", handle, durable=WORKER, ack_wait=0.3, auto_extend=False)
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

    async def test_consuming_where_no_stream_captures_is_told(self, connect: Connect) -> None:
        sb = await connect()
        with pytest.raises(NoStream):
            await sb.consume("nobody.captures.this", print, durable=WORKER)

    async def test_consuming_a_stream_that_is_not_there_is_told(self, connect: Connect) -> None:
        sb = await connect()
        with pytest.raises(StreamNotFound):
            await sb.consume("any.thing", print, durable=WORKER, stream="nowhere")

    async def test_verify_raises_drift_instead_of_working_with_other_settings(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await sb.consume(f"{name}.a", print, durable=WORKER, ack_wait=5, max_ack_pending=99)
        with pytest.raises(ConfigDrift) as caught:
            await sb.consume(f"{name}.a", print, durable=WORKER, ack_wait=7, max_ack_pending=99)
        assert caught.value.name == WORKER
        assert caught.value.differences == {"ack_wait": (7.0, 5.0)}

    async def test_update_brings_the_consumer_in_line(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await sb.consume(f"{name}.a", print, durable=WORKER, ack_wait=5)
        await sb.consume(f"{name}.a", print, durable=WORKER, ack_wait=7, max_ack_pending=50, ensure="update")
        config = (await sb.consumers.info(name, WORKER)).config
        assert (config.ack_wait, config.max_ack_pending) == (7.0, 50)

    async def test_bind_makes_no_consumer(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        with pytest.raises(ConsumerNotFound):
            await sb.consume(f"{name}.a", print, durable=WORKER, stream=name, ensure="bind")
        assert await listed(sb.consumers.names(name)) == []

    async def test_bind_works_on_what_is_there(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb)
        first = await sb.consume(f"{name}.a", print, durable=WORKER)
        await first.drain()
        await sb.enqueue(f"{name}.a", 1)
        await sb.consume(f"{name}.a", seen.append, durable=WORKER, stream=name, ensure="bind")
        await eventually(lambda: bodies(seen) == [1])

    async def test_a_consumer_deleted_under_it_is_made_again(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb)
        await sb.consume(f"{name}.a", seen.append, durable=WORKER)
        await sb.enqueue(f"{name}.a", 0)
        await eventually(lambda: len(seen) == 1)
        await sb.consumers.delete(name, WORKER)
        await sb.enqueue(f"{name}.a", 1)
        await eventually(lambda: 1 in bodies(seen), within=5)

    async def test_a_bound_consumption_that_waits_is_told_when_its_consumer_is_deleted(self, connect: Connect) -> None:
        sb = await connect()
        name, bound = await self._bound(sb, print)

        async def waiting() -> bool:
            return (await sb.consumers.info(name, WORKER)).waiting > 0

        await eventually(waiting)
        await sb.consumers.delete(name, WORKER)
        async with asyncio.timeout(5):
            with pytest.raises(ConsumerGone):
                await bound.wait()

    async def test_a_bound_consumption_that_was_busy_is_told_in_5_s_of_coming_back_for_more(
        self, connect: Connect
    ) -> None:
        sb, gate = await connect(), Gate()
        name, bound = await self._bound(sb, gate.handle, concurrency=1)
        await sb.enqueue(f"{name}.a", 0)
        await eventually(lambda: gate.running)
        await sb.consumers.delete(name, WORKER)
        gate.open()
        async with asyncio.timeout(5):
            with pytest.raises(ConsumerGone):
                await bound.wait()

    async def test_a_stream_deleted_under_it_is_not_silence(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb)
        worker = await sb.consume(f"{name}.a", seen.append, durable=WORKER)
        await sb.enqueue(f"{name}.a", 0)
        await eventually(lambda: len(seen) == 1)
        await sb.streams.delete(name)
        async with asyncio.timeout(12):
            with pytest.raises(StreamError):
                await worker.wait()

    @pytest.mark.parametrize(
        "options",
        [
            {"concurrency": 0},
            {"max_deliver": 0},
            {"max_ack_pending": 0},
            {"ack_wait": 0},
            {"backoff": (-1,)},
            {"backoff": "fast"},
            {"ensure": "maybe"},
        ],
        ids=str,
    )
    async def test_bad_options_are_refused_and_make_nothing(self, connect: Connect, options: dict[str, Any]) -> None:
        sb = await connect()
        name = await a_stream(sb)
        with pytest.raises(InvalidOption):
            await sb.consume(f"{name}.a", print, durable=WORKER, **options)
        assert await listed(sb.consumers.names(name)) == []

    async def test_a_handler_that_cannot_be_called_is_refused(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        with pytest.raises(InvalidOption):
            await sb.consume(f"{name}.a", "not a handler", durable=WORKER)  # type: ignore[arg-type]  # the case

    @staticmethod
    async def _bound(sb: StreamBroker, handler: Any, **options: Any) -> tuple[str, Consumption]:
        """A stream and a consumption bound to a consumer that is there."""
        name = await a_stream(sb)
        await (await sb.consume(f"{name}.a", print, durable=WORKER)).drain()
        bound = await sb.consume(f"{name}.a", handler, durable=WORKER, stream=name, ensure="bind", **options)
        return name, bound

    @staticmethod
    def _slowly_into(box: list[Any]) -> Any:
        async def handle(msg: StreamMessage) -> None:
            await asyncio.sleep(0.005)
            box.append(msg)

        return handle


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
