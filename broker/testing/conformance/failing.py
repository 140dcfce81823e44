"""``on_error``: what becomes of a message is declared by the exception its handler raises."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from broker import Entry, InvalidOption
from broker.testing.conformance.scene import WORKER, Conformance, a_stream, idle, letters
from broker.testing.waiting import eventually, never

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker import StreamMessage
    from broker.contracts.failure import OnErrors
    from broker.testing.conformance.scene import Connect

    Kind = Callable[["Failing"], Callable[[StreamMessage], Any]]


class Database(Exception):
    """What everybody needs is not there."""


class Failing:
    """A handler that raises what it is told to, once or for ever, and notes every attempt."""

    def __init__(self, *errors: BaseException | None) -> None:
        self.attempts: list[tuple[Any, int]] = []
        self._errors = list(errors)

    def plain(self, msg: StreamMessage) -> None:
        """The handler as a plain function."""
        self.attempts.append((msg.json(), msg.attempt))
        error = self._errors.pop(0) if len(self._errors) > 1 else self._errors[0]
        if error is not None:
            raise error

    async def task(self, msg: StreamMessage) -> None:
        """The handler as an ``async def``."""
        await asyncio.sleep(0)
        self.plain(msg)


both_kinds = pytest.mark.parametrize("kind", [lambda f: f.plain, lambda f: f.task], ids=["plain", "async"])


class FailureConformance(Conformance):
    """Promises of ``on_error``, for plain and async handlers alike."""

    @both_kinds
    async def test_dead_letter_is_at_once(self, connect: Connect, kind: Kind) -> None:
        sb, failing = await connect(), Failing(ValueError("no such player"))
        name = await a_stream(sb)
        await sb.consume(f"{name}.a", kind(failing), durable=WORKER, on_error={ValueError: "dead_letter"})
        await sb.enqueue(f"{name}.a", 1)
        (letter,) = await eventually(lambda: letters(sb, stream=name))
        assert failing.attempts == [(1, 1)]
        assert (letter.reason, letter.error_type, letter.attempts) == ("on_error", "ValueError", 1)
        await eventually(lambda: idle(sb, name, WORKER))

    @both_kinds
    async def test_drop_leaves_nothing_behind(self, connect: Connect, kind: Kind) -> None:
        sb, failing = await connect(), Failing(KeyError("late"))
        name = await a_stream(sb)
        await sb.consume(f"{name}.a", kind(failing), durable=WORKER, on_error={KeyError: "drop"})
        await sb.enqueue(f"{name}.a", 1)
        await eventually(lambda: sb.stats.terminated == 1)
        await eventually(lambda: idle(sb, name, WORKER))
        assert failing.attempts == [(1, 1)]
        assert await letters(sb, stream=name) == []
        assert (sb.stats.handler_errors, sb.stats.dead_lettered) == (1, 0)

    @both_kinds
    async def test_the_most_specific_class_wins(self, connect: Connect, kind: Kind) -> None:
        sb, failing = await connect(), Failing(KeyError("transient"), IndexError("broken"))
        name = await a_stream(sb)
        policy: OnErrors = {Exception: "drop", LookupError: "dead_letter", KeyError: "retry"}
        await sb.consume(f"{name}.a", kind(failing), durable=WORKER, on_error=policy, backoff=(0.05,))
        await sb.enqueue(f"{name}.a", 1)
        (letter,) = await eventually(lambda: letters(sb, stream=name))
        assert failing.attempts == [(1, 1), (1, 2)]
        assert letter.error_type == "IndexError"

    @both_kinds
    async def test_what_is_not_named_is_retried(self, connect: Connect, kind: Kind) -> None:
        sb, failing = await connect(), Failing(OSError("busy"), None)
        name = await a_stream(sb)
        await sb.consume(f"{name}.a", kind(failing), durable=WORKER, on_error={KeyError: "drop"}, backoff=(0.05,))
        await sb.enqueue(f"{name}.a", 1)
        await eventually(lambda: failing.attempts == [(1, 1), (1, 2)])
        await eventually(lambda: idle(sb, name, WORKER))

    @both_kinds
    async def test_retry_ends_in_the_dead_letters_after_the_last_attempt(self, connect: Connect, kind: Kind) -> None:
        sb, failing = await connect(), Failing(KeyError("always"))
        name = await a_stream(sb)
        policy: OnErrors = {KeyError: "retry"}
        await sb.consume(f"{name}.a", kind(failing), durable=WORKER, on_error=policy, max_deliver=2, backoff=(0.05,))
        await sb.enqueue(f"{name}.a", 1)
        (letter,) = await eventually(lambda: letters(sb, stream=name))
        assert (letter.reason, len(failing.attempts)) == ("max_deliver", 2)

    @both_kinds
    async def test_a_pause_holds_everything_and_makes_the_same_attempt_again(
        self, connect: Connect, kind: Kind
    ) -> None:
        sb, failing = await connect(), Failing(Database("down"), Database("still down"), None)
        name = await a_stream(sb)
        worker = await sb.consume(
            f"{name}.a",
            kind(failing),
            durable=WORKER,
            on_error={Database: "pause"},
            pause_for=0.5,
            max_deliver=1,
            concurrency=1,
            ack_wait=0.9,
        )
        events = worker.events()
        await sb.enqueue(f"{name}.a", 1)
        await eventually(lambda: len(failing.attempts) == 1)
        await sb.enqueue(f"{name}.a", 2)
        await never(lambda: len(failing.attempts) > 1, during=0.2)
        await eventually(lambda: len(failing.attempts) == 4)
        assert failing.attempts == [(1, 1), (1, 1), (1, 1), (2, 1)]
        await eventually(lambda: idle(sb, name, WORKER))
        assert await letters(sb, stream=name) == []
        await worker.drain()
        told = [event async for event in events if event.kind in {"paused", "resumed"}]
        assert [event.kind for event in told] == ["paused", "resumed"] * 2
        assert told[0].detail == "Database: down"

    @both_kinds
    async def test_draining_in_a_pause_gives_the_message_to_another(self, connect: Connect, kind: Kind) -> None:
        sb, failing, healthy = await connect(), Failing(Database("down")), Failing(None)
        name = await a_stream(sb)
        policy: OnErrors = {Database: "pause"}
        worker = await sb.consume(
            f"{name}.a", kind(failing), durable=WORKER, on_error=policy, pause_for=60, ack_wait=30
        )
        await sb.enqueue(f"{name}.a", 1)
        await eventually(lambda: failing.attempts)
        async with asyncio.timeout(10):
            await worker.drain()
        await (await connect()).consume(f"{name}.a", kind(healthy), durable=WORKER, ack_wait=30)
        await eventually(lambda: healthy.attempts == [(1, 2)], within=10)

    async def test_what_a_handler_settled_itself_stays_so(self, connect: Connect) -> None:
        sb, failing = await connect(), Failing(Database("afterwards"))
        name = await a_stream(sb)

        async def settled(msg: StreamMessage) -> None:
            await msg.ack()
            failing.plain(msg)

        await sb.consume(f"{name}.a", settled, durable=WORKER, on_error={Database: "pause"}, pause_for=60)
        await sb.enqueue_many(Entry(f"{name}.a", n) for n in range(3))
        await eventually(lambda: len(failing.attempts) == 3)
        await eventually(lambda: idle(sb, name, WORKER))

    @pytest.mark.parametrize(
        "options",
        [
            {"on_error": {ValueError: "explode"}},
            {"on_error": {"ValueError": "retry"}},
            {"on_error": {KeyboardInterrupt: "retry"}},
            {"on_error": [ValueError]},
            {"on_error": {ValueError: "dead_letter"}, "dead_letter": False},
            {"on_error": {ValueError: "pause"}, "auto_extend": False},
            {"on_error": {ValueError: "pause"}, "pause_for": 0},
        ],
        ids=["decision", "name", "base", "list", "no letters", "no extension", "no time"],
    )
    async def test_a_policy_that_makes_no_sense_is_refused(self, connect: Connect, options: dict[str, Any]) -> None:
        sb = await connect()
        with pytest.raises(InvalidOption) as caught:
            await sb.consume("a", print, durable=WORKER, **options)
        assert caught.value.option in options
