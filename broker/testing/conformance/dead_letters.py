"""Dead letters: what gave up is kept with its story before it is gone, and comes back once when it is told to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import TYPE_CHECKING, Any

import pytest

from broker import (
    ConfigDrift,
    ConsumerOptions,
    Entry,
    NoStream,
    StreamError,
    StreamOptions,
    SubjectTransform,
    Unsupported,
)
from broker.testing.conformance.scene import WORKER, Conformance, Gate, a_stream, bodies, fresh, idle, letters
from broker.testing.waiting import eventually, never

if TYPE_CHECKING:
    from broker import DeadLetter, StreamBroker, StreamMessage
    from broker.testing.conformance.scene import Connect


class DeadLetterConformance(Conformance):
    """Promises of the last attempt, of ``term`` and of ``dead_letters``."""

    async def test_there_are_none_before_the_first(self, connect: Connect) -> None:
        sb = await connect()
        assert await letters(sb) == []
        assert await sb.dead_letters.get(1) is None
        assert await sb.dead_letters.replay() == 0

    async def test_after_the_last_attempt_it_is_stored_before_it_is_gone(self, connect: Connect) -> None:
        sb, attempts = await connect(), list[int]()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.a", 1)

        async def handle(msg: StreamMessage) -> None:
            attempts.append(msg.attempt)
            raise ValueError("never")

        await sb.consume(f"{name}.a", handle, durable=WORKER, max_deliver=3, backoff=(0.02,))
        await eventually(lambda: idle(sb, name, WORKER))
        # Gone from the queue at this very moment, so it must be with the dead letters by now: no waiting here.
        assert len(await letters(sb)) == 1
        assert attempts == [1, 2, 3]
        assert (sb.stats.dead_lettered, sb.stats.terminated) == (1, 1)

    async def test_a_dead_letter_tells_the_whole_story(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.other", 0)
        await sb.enqueue(f"{name}.a", {"n": 1}, idempotency_key="battle-1", headers={"Room": ["1", "2"]})
        letter = await self._dead(sb, name)
        assert (letter.stream, letter.consumer, letter.subject) == (name, WORKER, f"{name}.a")
        assert (letter.data, letter.headers.get_all("Room")) == (b'{"n":1}', ["1", "2"])
        assert (letter.stream_sequence, letter.attempts, letter.reason) == (2, 1, "max_deliver")
        assert (letter.error, letter.error_type) == ("broken: Zoë", "ValueError")
        assert letter.idempotency_key == "battle-1"
        assert letter.first_seen.tzinfo is not None
        assert abs(datetime.now(UTC) - letter.last_seen) < timedelta(minutes=5)
        assert await sb.dead_letters.get(letter.sequence) == letter

    async def test_declared_beforehand_it_takes_the_letters_of_whoever_only_binds(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        for _ in range(2):  # fine when it is there
            await sb.dead_letters.declare()
        await sb.consumers.create(ConsumerOptions(durable=WORKER, queue=WORKER, stream=name))
        await sb.enqueue(f"{name}.a", 1)

        async def handle(_: StreamMessage) -> None:
            raise ValueError("never")

        await sb.consume(f"{name}.a", handle, durable=WORKER, stream=name, ensure="bind", max_deliver=1)
        await eventually(lambda: idle(sb, name, WORKER))
        assert [letter.error for letter in await letters(sb)] == ["never"]

    async def test_a_stream_in_their_place_that_does_not_take_them_is_told(self, connect: Connect) -> None:
        sb = await connect()
        await sb.declare(StreamOptions("GAMEBROKER_DEAD_LETTERS", ["elsewhere"]))
        with pytest.raises(ConfigDrift):
            await sb.dead_letters.declare()

    async def test_a_reason_of_any_length_is_told_in_one_line_and_costs_no_connection(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.a", 1)

        async def handle(msg: StreamMessage) -> None:
            await msg.term("no use:\n" + "x" * 2_000_000)

        await sb.consume(f"{name}.a", handle, durable=WORKER)
        await eventually(lambda: idle(sb, name, WORKER))
        [letter] = await letters(sb)
        assert (letter.reason[:10], len(letter.reason)) == ("no use: xx", 512)
        assert (sb.stats.reconnects, sb.stats.dead_lettered) == (0, 1)

    async def test_term_writes_a_dead_letter_with_its_reason(self, connect: Connect) -> None:
        sb, attempts = await connect(), list[int]()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.a", 1)

        async def handle(msg: StreamMessage) -> None:
            attempts.append(msg.attempt)
            await msg.term("cheater\r\nNats-Evil: 1")

        await sb.consume(f"{name}.a", handle, durable=WORKER)
        await eventually(lambda: idle(sb, name, WORKER))
        [letter] = await letters(sb)
        assert letter.reason.startswith("cheater")
        assert (letter.error_type, attempts) == ("", [1])

    async def test_without_dead_letters_it_is_just_gone(self, connect: Connect) -> None:
        sb, attempts = await connect(), list[int]()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.a", 1)

        async def handle(msg: StreamMessage) -> None:
            attempts.append(msg.attempt)
            raise ValueError("never")

        await sb.consume(f"{name}.a", handle, durable=WORKER, max_deliver=2, backoff=(0.02,), dead_letter=False)
        await eventually(lambda: idle(sb, name, WORKER))
        assert attempts == [1, 2]
        assert await letters(sb) == []

    async def test_they_are_listed_oldest_first_by_stream_consumer_and_subject(self, connect: Connect) -> None:
        sb = await connect()
        one, two = await a_stream(sb), await a_stream(sb)
        for name in (one, two):
            await sb.consume(f"{name}.>", self._fail, durable=WORKER, max_deliver=1, concurrency=1)
        for subject in (f"{one}.a", f"{one}.b", f"{two}.a"):
            await sb.enqueue(subject, subject)
            await eventually(lambda: self._newest_is(sb, subject))  # noqa: B023 - asked before the loop goes on
        assert [each.subject for each in await letters(sb)] == [f"{one}.a", f"{one}.b", f"{two}.a"]
        assert len(await letters(sb, stream=one)) == 2
        assert len(await letters(sb, stream=one, subject="*.b")) == 1
        assert len(await letters(sb, consumer="another")) == 0

    async def test_replay_brings_it_back_once(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.a", {"n": 1}, idempotency_key="battle-1", headers={"Room": "42"})
        letter = await self._dead(sb, name)
        await sb.consume(f"{name}.a", seen.append, durable=WORKER)
        assert await sb.dead_letters.replay(letter) == 1
        assert await sb.dead_letters.replay(letter) == 0
        [again] = await eventually(lambda: seen)
        assert (again.json(), again.idempotency_key, dict(again.headers)) == ({"n": 1}, "battle-1", {"Room": "42"})
        assert again.attempt == 1
        await never(lambda: len(seen) > 1, during=0.05)
        assert await letters(sb) == []

    @pytest.mark.parametrize(
        ("source", "destination", "sent"),
        [
            ("{}.*.*", "{}.{{partition(8,1)}}.{{wildcard(1)}}.{{wildcard(2)}}", "b42.won"),
            ("{}.*.*", "{}.{{wildcard(2)}}.{{wildcard(1)}}", "b42.won"),
            ("{}.*.*", "{}.$2.$1.filed", "b42.won"),
            ("{}.battle.>", "{}.filed.>", "battle.b42.won"),
            ("{}.battle.*", "{}.filed.{{wildcard(1)}}", "other.b42"),
        ],
        ids=["partition", "turned", "dollars", "the rest", "not rewritten"],
    )
    async def test_what_a_stream_rewrote_is_replayed_as_it_was_sent(
        self, connect: Connect, source: str, destination: str, sent: str
    ) -> None:
        sb, name, seen = await connect(), fresh("s"), list[Any]()
        transform = SubjectTransform(source.replace("{}", name), destination.replace("{}", name))
        await sb.declare(StreamOptions(name, [f"{name}.>"], subject_transform=transform))
        await sb.enqueue(f"{name}.{sent}", 1)
        letter = await self._dead(sb, name, f"{name}.>")
        await sb.consume(f"{name}.>", seen.append, durable=WORKER)
        assert await sb.dead_letters.replay(letter) == 1
        [again] = await eventually(lambda: seen)
        assert (again.subject, again.sequence, again.json()) == (letter.subject, 2, 1)

    async def test_what_a_stream_rewrote_beyond_recognition_stays(self, connect: Connect) -> None:
        sb, name = await connect(), fresh("s")
        transform = SubjectTransform(f"{name}.*.*", f"{name}.{{{{partition(8,1)}}}}.{{{{wildcard(2)}}}}")
        await sb.declare(StreamOptions(name, [f"{name}.*.*"], subject_transform=transform))
        await sb.enqueue(f"{name}.b42.won", 1)
        letter = await self._dead(sb, name, f"{name}.>")
        with pytest.raises(Unsupported, match="transform"):
            await sb.dead_letters.replay(letter)
        assert await letters(sb) == [letter]

    async def test_a_replayed_message_can_die_again(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.a", 1, idempotency_key="battle-1")
        first = await self._dead(sb, name)
        await sb.consume(f"{name}.a", self._fail, durable=WORKER, max_deliver=1)
        await sb.dead_letters.replay(first)
        [second] = await eventually(lambda: letters(sb))
        assert second.sequence > first.sequence
        assert (second.subject, second.idempotency_key) == (f"{name}.a", "battle-1")

    async def test_replay_by_filter_replays_those_that_match(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb)
        worker = await sb.consume(f"{name}.>", self._fail, durable=WORKER, max_deliver=1)
        for number in range(6):
            await sb.enqueue(f"{name}.{number % 2}", number)
        await eventually(lambda: sb.stats.dead_lettered == 6)
        await worker.drain()
        await sb.consume(f"{name}.>", seen.append, durable=WORKER)
        assert await sb.dead_letters.replay(subject=f"{name}.1") == 3
        await eventually(lambda: sorted(bodies(seen)) == [1, 3, 5])
        assert len(await letters(sb)) == 3

    async def test_one_that_cannot_go_back_keeps_none_of_the_others(self, connect: Connect) -> None:
        sb, seen, name = await connect(), list[Any](), fresh("s")
        await sb.declare(StreamOptions(name, [f"{name}.old", f"{name}.new"]))
        worker = await sb.consume(f"{name}.*", self._fail, durable=WORKER, max_deliver=1)
        for kind in ("old", "new"):
            await sb.enqueue(f"{name}.{kind}", kind)
        await eventually(lambda: sb.stats.dead_lettered == 2)
        await worker.drain()
        await sb.streams.update(StreamOptions(name, [f"{name}.new"]))
        await sb.consume(f"{name}.new", seen.append, durable="another")
        with pytest.raises(Unsupported, match=f"does not take '{name}.old'"):
            await sb.dead_letters.replay()
        await eventually(lambda: bodies(seen).count("new") == 2)
        assert [letter.subject for letter in await letters(sb)] == [f"{name}.old"]

    async def test_replay_keeps_to_its_rate(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        worker = await sb.consume(f"{name}.>", self._fail, durable=WORKER, max_deliver=1)
        await sb.enqueue_many(Entry(f"{name}.a", n) for n in range(4))
        await eventually(lambda: sb.stats.dead_lettered == 4)
        await worker.drain()
        began = monotonic()
        assert await sb.dead_letters.replay(rate=20) == 4
        assert monotonic() - began >= 0.14

    async def test_replay_where_the_stream_is_gone_keeps_the_letter(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.a", 1)
        letter = await self._dead(sb, name)
        await sb.streams.delete(name)
        with pytest.raises(NoStream):
            await sb.dead_letters.replay(letter)
        assert await letters(sb) == [letter]

    async def test_a_discarded_letter_is_gone(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.a", 1)
        letter = await self._dead(sb, name)
        await sb.dead_letters.discard(letter, "refunded by hand")
        assert await letters(sb) == []
        assert await sb.dead_letters.replay(letter) == 0

    async def test_one_that_dies_again_after_its_letter_was_discarded_has_a_letter_again(
        self, connect: Connect
    ) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.a", 1)
        first = await self._dead(sb, name)
        await sb.dead_letters.discard(first)
        await sb.consumers.reset(name, WORKER, 1)
        second = await self._dead(sb, name)
        await sb.dead_letters.discard(second)
        await sb.consumers.reset(name, WORKER, 1)
        third = await self._dead(sb, name)
        assert first.sequence < second.sequence < third.sequence
        assert {each.stream_sequence for each in (first, second, third)} == {1}

    async def test_one_that_dies_again_while_its_letter_is_there_has_one_letter(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.a", 1)
        first = await self._dead(sb, name)
        await sb.consumers.reset(name, WORKER, 1)
        assert (await self._dead(sb, name)).sequence == first.sequence

    async def test_the_letter_of_a_message_that_came_without_its_body_has_it(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.a", {"coins": 100}, idempotency_key="pay-1", headers={"Room": "42"})
        letter = await self._dead(sb, name, headers_only=True)
        assert (letter.data, letter.complete, letter.idempotency_key) == (b'{"coins":100}', True, "pay-1")
        await sb.consumers.delete(name, WORKER)
        await sb.streams.purge(name)
        await sb.consume(f"{name}.a", seen.append, durable="whole")
        assert await sb.dead_letters.replay(letter) == 1
        [again] = await eventually(lambda: seen)
        assert (again.json(), dict(again.headers)) == ({"coins": 100}, {"Room": "42"})

    async def test_the_letter_says_so_when_the_body_is_gone_already(self, connect: Connect) -> None:
        sb, gate = await connect(), Gate()
        name = await a_stream(sb)
        await sb.enqueue(f"{name}.a", {"coins": 100})

        async def handle(msg: StreamMessage) -> None:
            await gate.handle(msg)
            raise ValueError("too late")

        await sb.consume(f"{name}.a", handle, durable=WORKER, max_deliver=1, headers_only=True)
        await eventually(lambda: gate.running)
        await sb.streams.delete_message(name, 1)
        gate.open()
        [letter] = await eventually(lambda: letters(sb))
        assert (letter.data, letter.complete) == (b"", False)
        with pytest.raises(StreamError, match="gone"):
            await sb.dead_letters.replay(letter)

    async def test_other_messages_go_on_while_one_dies(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb)

        async def handle(msg: StreamMessage) -> None:
            if msg.json() % 5 == 0:
                raise ValueError("poison")
            seen.append(msg.json())

        await sb.consume(f"{name}.a", handle, durable=WORKER, max_deliver=2, backoff=(0.02,))
        await sb.enqueue_many(Entry(f"{name}.a", n) for n in range(20))
        await eventually(lambda: idle(sb, name, WORKER))
        assert sorted(seen) == [n for n in range(20) if n % 5]
        assert len(await letters(sb)) == 4

    async def test_dead_letters_of_a_work_queue_leave_it_empty(self, connect: Connect) -> None:
        sb, name = await connect(), fresh("stream")
        await sb.declare(StreamOptions(name, subjects=[f"{name}.>"], retention="workqueue"))
        await sb.enqueue_many(Entry(f"{name}.a", n) for n in range(3))
        await sb.consume(f"{name}.a", self._fail, durable=WORKER, max_deliver=2, backoff=(0.02,))

        async def empty() -> bool:
            return (await sb.streams.info(name)).messages == 0

        await eventually(empty)
        assert len(await letters(sb, stream=name)) == 3

    @staticmethod
    async def _fail(_: StreamMessage) -> None:
        raise ValueError("broken: Zoë")

    @staticmethod
    async def _newest_is(sb: StreamBroker, subject: str) -> bool:
        return bool(found := await letters(sb)) and found[-1].subject == subject

    async def _dead(self, sb: StreamBroker, name: str, pattern: str | None = None, **options: Any) -> DeadLetter:
        """The one message on ``<name>.a``, dead, with nobody consuming any more."""
        worker = await sb.consume(pattern or f"{name}.a", self._fail, durable=WORKER, max_deliver=1, **options)
        await eventually(lambda: idle(sb, name, WORKER))
        await worker.drain()
        [letter] = await letters(sb)
        return letter
