"""``python -m loadtest.chaos.worker``: settles what is handed to it; dies at a named point when it is told to."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from loadtest.chaos.books import Delivered, Outcome
from loadtest.chaos.evidence import BOOKS
from loadtest.chaos.histories import Event, History, Op, digest_of, now
from loadtest.chaos.joining import joined, patiently
from loadtest.chaos.mutations import Mutation, books
from loadtest.chaos.options import process_options
from loadtest.chaos.orders import Orders
from loadtest.chaos.plan import Plan
from loadtest.chaos.pulse import Pulse
from loadtest.chaos.settlements import POISON, SUBJECT, WORKERS, read
from services.process import run_process, stopped

if TYPE_CHECKING:
    import argparse

    from broker import Consumption, StreamBroker, StreamMessage
    from loadtest.chaos.books import Books

MAX_DELIVER: Final = 10
"""Above what kills alone can use up, so that only poison gets there."""
_BACKOFF: Final = (0.05,)
_BATCH_TIMEOUT: Final = 0.02
_AT_ONCE: Final = 2
_PAUSE: Final = 0.2
_AT_ACK: Final = ("before_ack", "after_ack")
_NOTED: Final = {Outcome.APPLIED: Op.COMMIT, Outcome.REPEATED: Op.REPEAT, Outcome.CONFLICT: Op.CONFLICT}


class Hand:
    """The handler of batches: commit, then ack by returning."""

    def __init__(
        self, books: Books, *, history: History, pulse: History, orders: Orders, thread: ThreadPoolExecutor, acks: bool
    ) -> None:
        self._books = books
        self._history = history
        self._pulse = pulse
        self._orders = orders
        self._thread = thread
        self._acks_first = acks
        self._counts: Counter[str] = Counter()

    def counts(self) -> dict[str, float]:
        """So far, by what was noted."""
        return {name: float(count) for name, count in self._counts.items()}

    async def __call__(self, messages: list[StreamMessage]) -> None:
        """Settle a batch."""
        self._note(Op.DELIVER, messages)
        fit: list[tuple[StreamMessage, Delivered]] = []
        for message in messages:
            try:
                settlement = read(message.data)
            except ValueError:
                self._note(Op.TERMINATED, [message])
                await message.term("malformed")
                continue
            if settlement.account == POISON:
                self._note(Op.GIVEN_BACK, [message])
                await message.nak()
            else:
                fit.append((message, Delivered(settlement, digest_of(message.data), message.sequence)))
        if fit:
            await self._settle([message for message, _ in fit], [delivered for _, delivered in fit])

    async def _settle(self, messages: list[StreamMessage], delivered: list[Delivered]) -> None:
        if self._acks_first:
            await _ack(messages)
        loop = asyncio.get_running_loop()
        try:
            outcomes = await loop.run_in_executor(self._thread, self._books.apply, delivered, self._orders.reached)
        except sqlite3.OperationalError as exc:
            self._pulse.write(Op.TROUBLE, told=str(exc))
            raise
        came = list(zip(messages, outcomes, strict=True))
        for outcome, op in _NOTED.items():
            self._note(op, [message for message, came_to in came if came_to is outcome])
        for message, outcome in came:
            if outcome is Outcome.CONFLICT and not message.settled:
                await message.term("conflict")
        if Outcome.APPLIED in outcomes and (point := self._orders.pending()) in _AT_ACK:
            await self._at_ack(point, messages)

    async def _at_ack(self, point: str, messages: list[StreamMessage]) -> None:
        """Acking is the library's when a handler returns; to die beside it, it is done here."""
        if point == "after_ack":
            await _ack([message for message in messages if not message.settled])
        self._orders.reached(point)

    def _note(self, op: Op, messages: list[StreamMessage]) -> None:
        at = now()
        self._counts[op] += len(messages)
        self._history.write_many(
            [
                Event(at, op, m.idempotency_key or "", digest_of(m.data), seq=m.sequence, attempt=m.attempt)
                for m in messages
            ]
        )


async def _ack(messages: list[StreamMessage]) -> None:
    """The last one confirmed, so that the server has had them all."""
    for message in messages:
        await message.ack(confirm=message is messages[-1])


async def _consume(broker: StreamBroker, hand: Hand, plan: Plan) -> Consumption:
    return await broker.consume(
        SUBJECT,
        hand,
        durable=WORKERS,
        max_ack_pending=plan.batch * plan.workers * (_AT_ONCE + 1),
        ack_wait=plan.ack_wait,
        concurrency=_AT_ONCE,
        max_deliver=MAX_DELIVER,
        backoff=_BACKOFF,
        batch_size=plan.batch,
        batch_timeout=_BATCH_TIMEOUT,
        on_error={sqlite3.OperationalError: "pause"},
        pause_for=_PAUSE,
    )


async def _serve(options: argparse.Namespace, stop: asyncio.Event) -> None:
    directory, name = options.directory, options.name
    plan = Plan.load(directory)
    thread = ThreadPoolExecutor(1, "books")
    with (
        History(directory, name) as history,
        History(directory, name, pulse=True) as pulse,
        books(directory / BOOKS, worker=name, mutation=plan.mutation) as kept,
    ):
        hand = Hand(
            kept,
            history=history,
            pulse=pulse,
            orders=Orders(directory, name, pulse),
            thread=thread,
            acks=plan.mutation is Mutation.ACKFIRST,
        )
        async with aclosing(await joined(options.url, name)) as broker, Pulse(broker, pulse, hand.counts):
            consumption = await patiently(lambda: _consume(broker, hand, plan))
            print(f"{name} ready", flush=True)
            await stopped(stop, consumption)
            async with asyncio.timeout(options.grace):
                await consumption.drain()
                await broker.drain()
        thread.shutdown()


def main() -> int:
    """Run the process; its exit code."""
    options = process_options(__doc__)
    return run_process(lambda stop: _serve(options, stop), name="chaos-worker", lifeline=options.lifeline)


if __name__ == "__main__":
    sys.exit(main())
