"""``push_subscribe``: the server sends unasked; everything else is as with ``consume``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from broker import ConfigDrift, Entry, InvalidOption, NoStream
from broker.testing.conformance.scene import (
    WORKER,
    Conformance,
    Gate,
    a_stream,
    bodies,
    idle,
    letters,
    listed,
    slowly_into,
)
from broker.testing.waiting import eventually, never

if TYPE_CHECKING:
    from broker import StreamMessage
    from broker.testing.conformance.scene import Connect


class PushConformance(Conformance):
    """Promises of push consumers."""

    async def test_returning_is_the_ack(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.a", {"winner": "ann"}, headers={"Room": "42"}, idempotency_key="battle-1")
        await sb.push_subscribe(f"{name}.a", seen.append, durable=WORKER)
        await eventually(lambda: len(seen) == 1)
        await eventually(lambda: idle(sb, name, WORKER))
        (msg,) = seen
        assert (msg.subject, msg.json(), dict(msg.headers)) == (f"{name}.a", {"winner": "ann"}, {"Room": "42"})
        assert (msg.stream, msg.sequence, msg.consumer, msg.attempt, msg.pending) == (name, 1, WORKER, 1, 0)
        assert msg.idempotency_key == "battle-1"

    async def test_a_thousand_come_in_order(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb)
        await sb.enqueue_many(Entry(f"{name}.a", n) for n in range(500))
        await sb.push_subscribe(f"{name}.a", seen.append)
        await sb.enqueue_many(Entry(f"{name}.a", n) for n in range(500, 1000))
        await eventually(lambda: len(seen) == 1000, within=10)
        assert bodies(seen) == list(range(1000))

    async def test_nothing_but_flow_control_bounds_what_is_not_settled(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        with pytest.raises(InvalidOption, match="flow_control") as caught:
            await sb.push_subscribe(f"{name}.a", print, ordered=True, flow_control=False)
        assert caught.value.option == "flow_control"
        assert await listed(sb.consumers.names(name)) == []

    async def test_a_failing_handler_gets_it_again_and_in_the_end_it_is_a_dead_letter(self, connect: Connect) -> None:
        sb, attempts = await connect(), list[int]()
        name = await a_stream(sb)

        async def handle(msg: StreamMessage) -> None:
            attempts.append(msg.attempt)
            raise LookupError("no such player")

        await sb.push_subscribe(f"{name}.a", handle, durable=WORKER, max_deliver=2, backoff=(0.05,))
        await sb.enqueue(f"{name}.a", 1)
        (letter,) = await eventually(lambda: letters(sb, stream=name))
        assert (attempts, letter.error_type) == ([1, 2], "LookupError")

    async def test_as_many_handlers_run_at_once_as_asked(self, connect: Connect) -> None:
        sb, gate = await connect(), Gate()
        name = await a_stream(sb)
        await sb.enqueue_many(Entry(f"{name}.a", n) for n in range(12))
        await sb.push_subscribe(f"{name}.a", gate.handle, durable=WORKER, concurrency=4)
        await eventually(lambda: gate.running == 4)
        await never(lambda: gate.running > 4, during=0.05)
        gate.open()
        await eventually(lambda: len(gate.finished) == 12)
        assert gate.most == 4

    async def test_what_waits_for_a_slot_longer_than_the_ack_wait_is_not_delivered_twice(
        self, connect: Connect
    ) -> None:
        sb, attempts = await connect(), list[int]()
        name = await a_stream(sb)
        await sb.enqueue_many(Entry(f"{name}.a", n) for n in range(3))

        async def handle(msg: StreamMessage) -> None:
            attempts.append(msg.attempt)
            await asyncio.sleep(1.0)

        await sb.push_subscribe(f"{name}.a", handle, durable=WORKER, concurrency=1, ack_wait=1.5)
        await eventually(lambda: len(attempts) == 3, within=10)
        await eventually(lambda: idle(sb, name, WORKER))
        assert attempts == [1] * 3

    async def test_a_group_shares_the_work(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        boxes: list[list[Any]] = [[], []]
        for box in boxes:
            await (await connect()).push_subscribe(f"{name}.a", slowly_into(box), queue="workers", max_ack_pending=8)
        await sb.enqueue_many(Entry(f"{name}.a", n) for n in range(100))
        await eventually(lambda: sum(map(len, boxes)) >= 100, within=10)
        await eventually(lambda: idle(sb, name, "workers"))
        assert sorted(bodies(boxes[0] + boxes[1])) == list(range(100))
        assert all(boxes), "the work is shared"

    async def test_a_durable_without_a_queue_has_one_listener(self, connect: Connect) -> None:
        sb, other, seen = await connect(), await connect(), list[Any]()
        name = await a_stream(sb)
        first = await sb.push_subscribe(f"{name}.a", seen.append, durable=WORKER)
        await sb.enqueue(f"{name}.a", 1)
        await eventually(lambda: bodies(seen) == [1])
        with pytest.raises(InvalidOption) as caught:
            await other.push_subscribe(f"{name}.a", seen.append, durable=WORKER)
        assert caught.value.option == "queue"
        await first.drain()
        await other.push_subscribe(f"{name}.a", seen.append, durable=WORKER)
        await sb.enqueue(f"{name}.a", 2)
        await eventually(lambda: bodies(seen) == [1, 2])

    async def test_two_unnamed_ones_each_get_everything_and_leave_nothing_behind(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        boxes: list[list[Any]] = [[], []]
        workers = [await sb.push_subscribe(f"{name}.a", box.append) for box in boxes]
        await sb.enqueue_many(Entry(f"{name}.a", n) for n in range(10))
        await eventually(lambda: [bodies(box) for box in boxes] == [list(range(10))] * 2)
        for worker in workers:
            await worker.drain()
        assert await listed(sb.consumers.names(name)) == []

    @pytest.mark.parametrize("start", ["new", 3])
    async def test_it_starts_where_it_is_told(self, connect: Connect, start: Any) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb)
        await sb.enqueue_many(Entry(f"{name}.a", n) for n in range(1, 5))
        await sb.push_subscribe(f"{name}.a", seen.append, start=start)
        await sb.enqueue(f"{name}.a", 5)
        await eventually(lambda: bodies(seen) == ([5] if start == "new" else [3, 4, 5]))

    async def test_batches_are_pushed_too(self, connect: Connect) -> None:
        sb, batches = await connect(), list[list[Any]]()
        name = await a_stream(sb)
        await sb.enqueue_many(Entry(f"{name}.a", n) for n in range(6))
        await sb.push_subscribe(
            f"{name}.a", lambda batch: batches.append(bodies(batch)), durable=WORKER, batch_size=3, batch_timeout=30
        )
        await eventually(lambda: batches == [[0, 1, 2], [3, 4, 5]])
        await eventually(lambda: idle(sb, name, WORKER))

    async def test_draining_gives_back_what_was_not_started(self, connect: Connect) -> None:
        sb, other, gate, seen = await connect(), await connect(), Gate(), list[Any]()
        name = await a_stream(sb)
        await sb.enqueue_many(Entry(f"{name}.a", n) for n in range(20))
        worker = await sb.push_subscribe(f"{name}.a", gate.handle, durable=WORKER, concurrency=2, ack_wait=30)
        await eventually(lambda: gate.running == 2)
        draining = asyncio.create_task(worker.drain())
        await never(draining.done, during=0.05)
        gate.open()
        async with asyncio.timeout(10):
            await draining
        await other.push_subscribe(f"{name}.a", seen.append, durable=WORKER, ack_wait=30)
        await eventually(lambda: len(seen) >= 18, within=10)
        await eventually(lambda: idle(sb, name, WORKER))
        assert sorted(bodies(seen + gate.finished)) == list(range(20))

    async def test_pausing_and_resuming(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb)
        # What a server sends while it has not noticed yet that nobody listens comes again after its ack wait.
        worker = await sb.push_subscribe(f"{name}.a", seen.append, durable=WORKER, ack_wait=2)
        await sb.enqueue(f"{name}.a", 1)
        await eventually(lambda: bodies(seen) == [1])
        await worker.pause()
        await sb.enqueue(f"{name}.a", 2)
        await never(lambda: len(seen) > 1)
        await worker.resume()
        await eventually(lambda: bodies(seen) == [1, 2], within=10)

    async def test_a_deleted_one_is_made_again(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb)
        worker = await sb.push_subscribe(f"{name}.a", seen.append, durable=WORKER, idle_heartbeat=0.2)
        events = worker.events()
        await sb.enqueue(f"{name}.a", 1)
        await eventually(lambda: bodies(seen) == [1])
        await sb.consumers.delete(name, WORKER)
        async with asyncio.timeout(15):
            while (await anext(events)).kind != "consumer_recreated":
                pass
        await sb.enqueue(f"{name}.a", 2)
        await eventually(lambda: bodies(seen)[-1] == 2)

    async def test_ordered_it_comes_one_at_a_time_and_a_failure_holds_up_nothing(self, connect: Connect) -> None:
        sb, seen, running = await connect(), list[Any](), list[int]()
        name = await a_stream(sb)
        await sb.enqueue_many(Entry(f"{name}.a", n) for n in range(300))

        async def handle(msg: StreamMessage) -> None:
            running.append(1)
            await asyncio.sleep(0)
            seen.append((msg.json(), len(running)))
            running.pop()
            if msg.json() == 7:
                raise LookupError("reported")

        worker = await sb.push_subscribe(f"{name}.a", handle, ordered=True)
        await eventually(lambda: len(seen) == 300, within=10)
        await sb.enqueue(f"{name}.a", 300)
        await eventually(lambda: len(seen) == 301)
        assert seen == [(n, 1) for n in range(301)]
        assert sb.stats.handler_errors == 1
        await worker.drain()
        assert await listed(sb.consumers.names(name)) == []

    async def test_ordered_it_goes_on_where_it_was_when_its_consumer_is_deleted_or_it_was_paused(
        self, connect: Connect
    ) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb)
        worker = await sb.push_subscribe(f"{name}.a", seen.append, ordered=True, idle_heartbeat=0.2)
        for number in range(4):
            await sb.enqueue_many(Entry(f"{name}.a", number * 10 + n) for n in range(10))
            await eventually(lambda: bodies(seen)[-1:] == [number * 10 + 9], within=10)  # noqa: B023 - asked at once
            if number % 2:
                await worker.pause()
                await worker.resume()
            else:
                (consumer,) = await listed(sb.consumers.names(name))
                await sb.consumers.delete(name, consumer)
        assert bodies(seen) == list(range(40))

    @pytest.mark.parametrize("retention", ["limits", "interest"])
    async def test_ordered_it_misses_nothing_that_is_stored_while_it_is_paused(
        self, connect: Connect, retention: Any
    ) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb, retention=retention)
        worker = await sb.push_subscribe(f"{name}.a", seen.append, ordered=True, start="new")
        for number in range(0, 9, 3):  # paused before the first message, and after some
            await worker.pause()
            await never(lambda: len(seen) > number, during=0.2)  # noqa: B023 - asked at once
            await sb.enqueue_many(Entry(f"{name}.a", number + n) for n in range(3))
            await worker.resume()
            await eventually(lambda: bodies(seen) == list(range(number + 3)), within=10)  # noqa: B023 - asked at once

    async def test_ordered_what_was_fetched_and_not_begun_when_it_was_paused_comes_first_afterwards(
        self, connect: Connect
    ) -> None:
        sb, gate, seen = await connect(), Gate(), list[Any]()
        name = await a_stream(sb, retention="interest")

        async def handle(msg: StreamMessage) -> None:
            await gate.handle(msg)
            seen.append(msg)

        worker = await sb.push_subscribe(f"{name}.a", handle, ordered=True)
        await sb.enqueue_many(Entry(f"{name}.a", n) for n in range(50))
        await eventually(lambda: gate.running == 1)
        await worker.pause()
        gate.open()
        await eventually(lambda: bodies(seen) == [0])
        await never(lambda: len(seen) > 1, during=0.2)
        await sb.enqueue(f"{name}.a", 50)
        await worker.resume()
        await eventually(lambda: len(seen) == 51, within=10)
        assert bodies(seen) == list(range(51))

    @pytest.mark.parametrize("options", [{"durable": "w"}, {"queue": "w"}, {"max_deliver": 3}], ids=str)
    async def test_ordered_contradicts_whatever_settles(self, connect: Connect, options: dict[str, Any]) -> None:
        sb = await connect()
        with pytest.raises(InvalidOption):
            await sb.push_subscribe("a", print, ordered=True, **options)

    async def test_to_or_from_push_it_never_changes(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await sb.consume(f"{name}.a", print, durable=WORKER)
        with pytest.raises(ConfigDrift) as caught:
            await sb.push_subscribe(f"{name}.a", print, durable=WORKER, ensure="update")
        assert "deliver_subject" in caught.value.differences
        await (await sb.push_subscribe(f"{name}.a", print, durable="pushed")).drain()
        with pytest.raises(ConfigDrift) as caught:
            await sb.consume(f"{name}.a", print, durable="pushed")
        assert "deliver_subject" in caught.value.differences

    async def test_no_stream_captures_it(self, connect: Connect) -> None:
        sb = await connect()
        with pytest.raises(NoStream):
            await sb.push_subscribe("nobody.captures.this", print, durable=WORKER)

    @pytest.mark.parametrize(
        "options",
        [{"idle_heartbeat": 0}, {"ensure": "bind"}, {"batch_size": 0}, {"ack_wait": 0}, {"on_error": {int: "retry"}}],
        ids=str,
    )
    async def test_options_that_make_no_sense_are_refused(self, connect: Connect, options: dict[str, Any]) -> None:
        sb = await connect()
        with pytest.raises(InvalidOption) as caught:
            await sb.push_subscribe("nobody.captures.this", print, durable=WORKER, **options)
        assert caught.value.option in options
