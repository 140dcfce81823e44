"""``reschedule_after``: what waits for a far attempt takes no place, comes back to its group, and is never lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from time import monotonic
from typing import TYPE_CHECKING, Any

import pytest

from broker import Entry
from broker.testing.conformance.scene import WORKER, Conformance, a_stream, arrived, idle, letters
from broker.testing.waiting import eventually, never

if TYPE_CHECKING:
    from broker import Consumption, StreamBroker, StreamMessage
    from broker.testing.conformance.scene import Connect

LATER = "GAMEBROKER_LATER"


class Failing:
    """A handler that fails at the first ``times`` attempts of each message on ``<stream>.bad``, and notes them all."""

    def __init__(self, times: int = 1) -> None:
        self.seen: list[StreamMessage] = []
        self._times = times

    def plain(self, msg: StreamMessage) -> None:
        """The handler as a plain function."""
        self.seen.append(msg)
        if msg.subject.endswith(".bad") and self.attempts_of(msg.json()) <= self._times:
            raise ConnectionError("not yet")

    async def task(self, msg: StreamMessage) -> None:
        """The handler as an ``async def``."""
        await asyncio.sleep(0)
        self.plain(msg)

    async def batch(self, msgs: list[StreamMessage]) -> None:
        """The handler of lists."""
        for msg in msgs:
            self.plain(msg)

    def attempts_of(self, body: object) -> int:
        """How often it had a message with that body."""
        return sum(msg.json() == body for msg in self.seen)


async def waiting(sb: StreamBroker) -> int:
    """How many messages wait for their time, or came back and are not settled."""
    return (await sb.streams.info(LATER)).messages


async def emptied(sb: StreamBroker) -> bool:
    """Whether nothing waits."""
    return await waiting(sb) == 0


async def consuming(sb: StreamBroker, name: str, handler: Any, **options: Any) -> Consumption:
    """A worker of the usual group, whose every retry is a far one."""
    given = {"durable": WORKER, "backoff": (0.5,), "reschedule_after": 0.2, **options}
    return await sb.consume(f"{name}.>", handler, **given)


kinds = pytest.mark.parametrize("kind", ["plain", "task"])


class RescheduleConformance(Conformance):
    """Promises of ``consume(reschedule_after=)``."""

    @kinds
    async def test_what_waits_takes_no_place(self, connect: Connect, kind: str) -> None:
        sb, failing = await connect(), Failing()
        name = await a_stream(sb)
        await consuming(sb, name, getattr(failing, kind), max_ack_pending=16, backoff=(60.0,))
        await sb.enqueue_many(Entry(f"{name}.bad", f"bad {number}") for number in range(300))
        await sb.enqueue_many(Entry(f"{name}.good", number) for number in range(10))
        await eventually(lambda: len(failing.seen) >= 310, within=15)
        await eventually(lambda: idle(sb, name, WORKER))
        assert [msg.json() for msg in failing.seen if msg.subject == f"{name}.good"] == list(range(10))
        assert (await waiting(sb), sb.stats.rescheduled, sb.stats.naked) == (300, 300, 300)

    async def test_without_it_what_waits_keeps_its_place(self, connect: Connect) -> None:
        sb, failing = await connect(), Failing()
        name = await a_stream(sb)
        await consuming(sb, name, failing.plain, max_ack_pending=4, backoff=(60.0,), reschedule_after=None)
        for number in range(6):
            await sb.enqueue(f"{name}.bad", number)
        await arrived(failing.seen, 4)
        await never(lambda: len(failing.seen) > 4)
        assert sb.stats.rescheduled == 0

    @kinds
    async def test_it_comes_back_as_the_message_it_is(self, connect: Connect, kind: str) -> None:
        sb, failing = await connect(), Failing(times=3)
        name = await a_stream(sb)
        await consuming(sb, name, getattr(failing, kind))
        await sb.enqueue(f"{name}.good", "before")
        began = monotonic()
        receipt = await sb.enqueue(
            f"{name}.bad", "it", idempotency_key="once", ordering_key="ann", headers={"X-Trace": ["a", "b"]}
        )
        await arrived(failing.seen, 5)
        assert monotonic() - began >= 3 * 0.45
        first, *others = [msg for msg in failing.seen if msg.json() == "it"]
        assert [msg.attempt for msg in (first, *others)] == [1, 2, 3, 4]
        for msg in others:
            assert (msg.subject, msg.stream, msg.consumer) == (f"{name}.bad", name, WORKER)
            assert (msg.sequence, msg.timestamp) == (receipt.sequence, first.timestamp)
            assert (msg.idempotency_key, msg.ordering_key) == ("once", "ann")
            assert list(msg.headers.pairs) == list(first.headers.pairs)
            assert msg.data == first.data
        await eventually(lambda: idle(sb, name, WORKER))
        await eventually(lambda: emptied(sb))
        assert sb.stats.redelivered == 3

    async def test_near_attempts_are_given_back_as_ever(self, connect: Connect) -> None:
        sb, failing = await connect(), Failing(times=3)
        name = await a_stream(sb)
        await consuming(sb, name, failing.plain, backoff=(0.05, 0.5, 0.05), reschedule_after=0.3)
        await sb.enqueue(f"{name}.bad", "it")
        await arrived(failing.seen, 4)
        assert [msg.attempt for msg in failing.seen] == [1, 2, 3, 4]
        await eventually(lambda: emptied(sb))
        assert (sb.stats.naked, sb.stats.rescheduled) == (3, 1)

    async def test_a_delay_by_hand_counts_as_well(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb)

        async def handle(msg: StreamMessage) -> None:
            seen.append(msg.attempt)
            if msg.attempt == 1:
                await msg.nak(delay=0.4)

        await consuming(sb, name, handle, backoff=())
        await sb.enqueue(f"{name}.a", 1)
        await arrived(seen, 2)
        assert seen == [1, 2]
        assert sb.stats.rescheduled == 1

    async def test_the_last_attempt_ends_in_the_dead_letters(self, connect: Connect) -> None:
        sb, failing = await connect(), Failing(times=9)
        name = await a_stream(sb)
        await consuming(sb, name, failing.task, max_deliver=3)
        await sb.enqueue(f"{name}.good", "before")
        receipt = await sb.enqueue(f"{name}.bad", "it", idempotency_key="once", headers={"X": "y"})
        (letter,) = await eventually(lambda: letters(sb, stream=name), within=10)
        assert [msg.attempt for msg in failing.seen if msg.json() == "it"] == [1, 2, 3]
        assert (letter.stream, letter.consumer, letter.subject) == (name, WORKER, f"{name}.bad")
        assert (letter.stream_sequence, letter.attempts, letter.reason) == (receipt.sequence, 3, "max_deliver")
        assert (letter.idempotency_key, dict(letter.headers), letter.error_type) == (
            "once",
            {"X": "y"},
            "ConnectionError",
        )
        assert abs(letter.first_seen - failing.seen[-1].timestamp) < timedelta(milliseconds=1)
        await eventually(lambda: emptied(sb))
        assert await sb.dead_letters.replay(letter) == 1
        await arrived(failing.seen, 5)
        assert (failing.seen[-1].attempt, failing.seen[-1].subject) == (1, f"{name}.bad")

    async def test_other_groups_do_not_see_it(self, connect: Connect) -> None:
        sb, failing, others = await connect(), Failing(), list[Any]()
        name = await a_stream(sb)
        await consuming(sb, name, failing.plain)
        await sb.consume(f"{name}.>", others.append, durable="another", reschedule_after=0.2)
        await sb.enqueue(f"{name}.bad", "it")
        await arrived(failing.seen, 2)
        await never(lambda: len(others) > 1)
        assert (await sb.streams.info(name)).messages == 1

    @pytest.mark.parametrize("retention", ["limits", "workqueue", "interest"])
    async def test_any_stream_will_do(self, connect: Connect, retention: str) -> None:
        sb, failing = await connect(), Failing()
        name = await a_stream(sb, retention=retention)
        await consuming(sb, name, failing.plain)
        await sb.enqueue(f"{name}.bad", "it")
        await arrived(failing.seen, 1)
        await eventually(lambda: idle(sb, name, WORKER))
        assert (await sb.streams.info(name)).messages == (retention == "limits")
        await arrived(failing.seen, 2)
        assert [msg.attempt for msg in failing.seen] == [1, 2]
        await eventually(lambda: emptied(sb))

    async def test_a_stream_with_lanes_too(self, connect: Connect) -> None:
        sb, failing = await connect(), Failing()
        name = await a_stream(sb, lanes=2)
        await consuming(sb, name, failing.plain)
        receipt = await sb.enqueue(f"{name}.bad", "it", ordering_key="ann")
        await arrived(failing.seen, 2)
        again = failing.seen[1]
        assert (again.subject, again.ordering_key, again.sequence) == (f"{name}.bad", "ann", receipt.sequence)

    async def test_batches_and_push_consumers_too(self, connect: Connect) -> None:
        sb, failing, pushed = await connect(), Failing(), Failing()
        name = await a_stream(sb)
        await consuming(sb, name, failing.batch, batch_size=4, batch_timeout=0.05)
        given: Any = {"backoff": (0.4,), "reschedule_after": 0.2}
        await sb.push_subscribe(f"{name}.>", pushed.plain, durable="pushed", **given)
        await sb.enqueue(f"{name}.bad", "it")
        for each in (failing, pushed):
            await arrived(each.seen, 2)
            assert [(msg.attempt, msg.subject) for msg in each.seen] == [(1, f"{name}.bad"), (2, f"{name}.bad")]
        await eventually(lambda: emptied(sb))

    async def test_a_long_handler_keeps_what_came_back(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb)

        async def handle(msg: StreamMessage) -> None:
            seen.append(msg.attempt)
            if msg.attempt == 1:
                raise ConnectionError
            await asyncio.sleep(1.5)

        await consuming(sb, name, handle, ack_wait=0.9)
        await sb.enqueue(f"{name}.a", 1)
        await arrived(seen, 2)
        await eventually(lambda: emptied(sb))
        assert seen == [1, 2]

    async def test_what_came_back_is_settled_by_hand(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb)

        async def handle(msg: StreamMessage) -> None:
            seen.append((msg.json(), msg.attempt))
            if msg.attempt == 1:
                await msg.nak()
            elif msg.json() == "ack":
                await msg.ack(confirm=True)
            elif msg.json() == "term":
                await msg.in_progress()
                await msg.term("enough")
            elif msg.attempt == 2:
                await msg.nak(delay=0.05)

        await consuming(sb, name, handle)
        for body in ("ack", "term", "nak"):
            await sb.enqueue(f"{name}.a", body)
        await arrived(seen, 7)
        assert sorted(seen)[-2:] == [("term", 1), ("term", 2)]
        assert [each for each in seen if each[0] == "nak"] == [("nak", 1), ("nak", 2), ("nak", 3)]
        (letter,) = await eventually(lambda: letters(sb, stream=name))
        assert (letter.reason, letter.attempts, letter.stream_sequence) == ("enough", 2, 2)
        await eventually(lambda: emptied(sb))

    async def test_another_worker_of_the_group_gets_it(self, connect: Connect) -> None:
        sb, other, failing, seen = await connect(), await connect(), Failing(times=9), list[Any]()
        name = await a_stream(sb)
        worker = await consuming(sb, name, failing.plain)
        receipt = await sb.enqueue(f"{name}.bad", "it")
        await eventually(lambda: sb.stats.rescheduled == 1)
        await worker.drain()
        await consuming(other, name, seen.append)
        await arrived(seen, 1)
        assert (seen[0].attempt, seen[0].sequence) == (2, receipt.sequence)

    async def test_no_worker_is_there_when_it_is_due(self, connect: Connect) -> None:
        sb, failing, seen = await connect(), Failing(), list[Any]()
        name = await a_stream(sb)
        worker = await consuming(sb, name, failing.plain)
        await sb.enqueue(f"{name}.bad", "it")
        await eventually(lambda: sb.stats.rescheduled == 1)
        await worker.drain()
        await asyncio.sleep(1.0)
        await consuming(sb, name, seen.append)
        await arrived(seen, 1)
        assert seen[0].attempt == 2

    async def test_what_came_back_and_was_not_begun_is_given_back(self, connect: Connect) -> None:
        sb, other, failing, seen = await connect(), await connect(), Failing(), list[Any]()
        name = await a_stream(sb)
        held = asyncio.Event()

        async def handle(msg: StreamMessage) -> None:
            failing.plain(msg)
            await held.wait()

        worker = await consuming(sb, name, handle, concurrency=1, ack_wait=60.0, max_deliver=9)
        for number in range(3):
            await sb.enqueue(f"{name}.bad", number)
        await eventually(lambda: sb.stats.rescheduled == 3)
        await eventually(lambda: len(failing.seen) == 4)  # one came back and is held, the others wait behind it
        await asyncio.sleep(0.3)
        ending = asyncio.create_task(worker.drain())
        await consuming(other, name, seen.append, ack_wait=60.0, max_deliver=9)
        await arrived(seen, 2)
        held.set()
        await ending
        assert len({msg.sequence for msg in [*seen, failing.seen[3]]}) == 3
        await eventually(lambda: emptied(sb))

    async def test_many_that_are_due_at_once_all_come_back(self, connect: Connect) -> None:
        sb, failing = await connect(), Failing()
        name = await a_stream(sb)
        await consuming(sb, name, failing.task, max_ack_pending=16, concurrency=4)
        for number in range(100):
            await sb.enqueue(f"{name}.bad", number)
        await arrived(failing.seen, 200)
        await eventually(lambda: emptied(sb))
        assert set(Counter(msg.json() for msg in failing.seen).values()) == {2}
        assert {msg.attempt for msg in failing.seen} == {1, 2}

    async def test_pause_and_resume_lose_nothing(self, connect: Connect) -> None:
        sb, failing = await connect(), Failing()
        name = await a_stream(sb)
        worker = await consuming(sb, name, failing.task)
        await sb.enqueue(f"{name}.bad", "it")
        await eventually(lambda: sb.stats.rescheduled == 1)
        await worker.pause()
        await never(lambda: len(failing.seen) > 1, during=1.0)
        await worker.resume()
        await arrived(failing.seen, 2)
        assert failing.seen[1].attempt == 2
