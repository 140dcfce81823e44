"""The hands of a worker: the library's inbox with a handler that books, watched; and two that go without it."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from broker.applying import SomeFailed
from loadtest.chaos import books
from loadtest.chaos.histories import Event, Op, digest_of, now
from loadtest.chaos.mutations import Mutation, Tampering
from loadtest.chaos.settlements import POISON, SUBJECT, WORKERS, read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from broker import StreamMessage
    from broker.applying import Applied
    from broker.contracts.options import ConsumeOptions, StreamOptions
    from broker.exactly_once import Inbox
    from loadtest.chaos.histories import History
    from loadtest.chaos.orders import Orders
    from loadtest.chaos.settlements import Settlement

_AT_ACK: Final = ("before_ack", "after_ack")
MID_HANDLER: Final = "mid_handler"


class Notes:
    """What a worker writes down of each message; counted."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._counts: Counter[str] = Counter()

    def counts(self) -> dict[str, float]:
        """So far, by what was noted."""
        return {name: float(count) for name, count in self._counts.items()}

    def write(self, op: Op, messages: Sequence[StreamMessage]) -> None:
        """This became of these."""
        at = now()
        self._counts[op] += len(messages)
        self._history.write_many(
            [
                Event(at, op, m.idempotency_key or "", digest_of(m.data), seq=m.sequence, attempt=m.attempt)
                for m in messages
            ]
        )


class Clerk:
    """Reads messages and books settlements: what every hand does, with an inbox or without."""

    def __init__(self, kind: books.Kind, notes: Notes, orders: Orders, mutation: Mutation | None) -> None:
        self.kind = kind
        self.notes = notes
        self.orders = orders
        self._legs = Tampering(mutation).legs

    async def sorted_out(self, messages: Iterable[StreamMessage]) -> list[tuple[StreamMessage, Settlement]]:
        """Those that can be settled; the others are given back or given up."""
        fit = []
        for message in messages:
            try:
                settlement = read(message.data)
            except ValueError:
                self.notes.write(Op.TERMINATED, [message])
                await message.term("malformed")
                continue
            if settlement.account == POISON:
                self.notes.write(Op.GIVEN_BACK, [message])
                await message.nak()
            else:
                fit.append((message, settlement))
        return fit

    async def book(self, tx: AsyncConnection, fresh: Sequence[Settlement]) -> None:
        """Write their postings; half of them are there when ``mid_handler`` is reached."""
        for number, write in enumerate(books.postings(fresh, self._legs)):
            if number == books.HALF:
                self.orders.reached(MID_HANDLER)
            if write.rows:
                await tx.exec_driver_sql(*write.on(self.kind))


class Handler:
    """What the library calls with what is new, and the transaction.

    Attributes:
        booked: numbers in the stream of what was booked and not yet asked for.
    """

    def __init__(self, clerk: Clerk) -> None:
        self.booked: set[int] = set()
        self._clerk = clerk

    async def __call__(self, messages: list[StreamMessage], tx: AsyncConnection) -> None:
        """Book a batch."""
        fit = await self._clerk.sorted_out(messages)
        if fit:
            await self._clerk.book(tx, [settlement for _, settlement in fit])
            self.booked.update(message.sequence for message, _ in fit)


class WatchedInbox:
    """The library's inbox; whatever goes in and comes out is written down."""

    def __init__(self, inbox: Inbox, handler: Handler, clerk: Clerk) -> None:
        self._inbox = inbox
        self._handler = handler
        self._clerk = clerk

    async def check(self, stream: StreamOptions | None) -> None:
        """See ``broker.applying.Inbox``."""
        await self._inbox.check(stream)

    def applying(self, handler: Callable[..., Any], *, consumer: str, options: ConsumeOptions) -> Applied:
        """See ``broker.applying.Inbox``."""
        applied = self._inbox.applying(handler, consumer=consumer, options=options)
        return WatchedApplied(applied, self._handler, self._clerk)


class WatchedApplied:
    """Calls the library's, notes what came in and what it came to, and dies beside the ack when told to."""

    def __init__(self, applied: Applied, handler: Handler, clerk: Clerk) -> None:
        self._applied = applied
        self._handler = handler
        self._clerk = clerk

    @property
    def stopping(self) -> Callable[[], bool]:
        """See ``broker.applying.Applied``."""
        return self._applied.stopping

    @stopping.setter
    def stopping(self, told: Callable[[], bool]) -> None:
        self._applied.stopping = told

    @property
    def in_hand(self) -> int:
        """See ``broker.applying.Applied``."""
        return self._applied.in_hand

    async def __call__(self, taken: list[StreamMessage], /) -> None:
        """Apply a batch once."""
        notes, booked = self._clerk.notes, self._handler.booked
        notes.write(Op.DELIVER, taken)
        booked.difference_update(message.sequence for message in taken)
        try:
            await self._applied(taken)
        except SomeFailed as exc:
            notes.write(Op.COMMIT, [m for m in taken if m.sequence in booked and m not in exc.errors])
            raise
        notes.write(Op.COMMIT, [m for m in taken if m.sequence in booked])
        notes.write(Op.REPEAT, [m for m in taken if m.sequence not in booked and not m.settled])
        if any(m.sequence in booked for m in taken):
            await self._at_ack(taken)
        booked.difference_update(message.sequence for message in taken)

    async def _at_ack(self, messages: Sequence[StreamMessage]) -> None:
        """Acking is the library's when this returns; to die beside it, it is done here."""
        orders = self._clerk.orders
        if (point := orders.pending()) in _AT_ACK:
            if point == "after_ack":
                await acked([message for message in messages if not message.settled])
            orders.reached(point)


class Bare:
    """A handler without an inbox, as one might write it: ``naive`` applies whatever comes, ``ackfirst`` acks first.

    Both record the key, so that only what they do wrong is wrong.
    """

    def __init__(self, engine: AsyncEngine, clerk: Clerk, mutation: Mutation) -> None:
        self._engine = engine
        self._clerk = clerk
        self._acks_first = mutation is Mutation.ACKFIRST
        self._turn = asyncio.Lock()

    async def __call__(self, messages: list[StreamMessage]) -> None:
        """Settle a batch."""
        clerk = self._clerk
        clerk.notes.write(Op.DELIVER, messages)
        fit = await clerk.sorted_out(messages)
        if not fit:
            return
        if self._acks_first:
            await acked([message for message, _ in fit])
        async with self._turn, self._engine.connect() as tx:
            if clerk.kind == "sqlite":
                await tx.exec_driver_sql("BEGIN IMMEDIATE")
            known = await self._known(tx) if self._acks_first else frozenset()
            fresh = [(message, settlement) for message, settlement in fit if settlement.key not in known]
            if fresh:
                await self._apply(tx, fresh)
            await tx.commit()
        clerk.orders.reached("after_commit")
        clerk.notes.write(Op.COMMIT, [message for message, _ in fresh])
        if clerk.orders.pending() == "before_ack":
            clerk.orders.reached("before_ack")
        if clerk.orders.pending() == "after_ack":
            await acked([message for message in messages if not message.settled])
            clerk.orders.reached("after_ack")

    async def _known(self, tx: AsyncConnection) -> frozenset[str]:
        query = f"SELECT key FROM {books.INBOX} WHERE consumer = '{WORKERS}' AND subject = '{SUBJECT}'"  # noqa: S608 - constants
        return frozenset(key for (key,) in await tx.exec_driver_sql(query))

    async def _apply(self, tx: AsyncConnection, fresh: Sequence[tuple[StreamMessage, Settlement]]) -> None:
        clerk = self._clerk
        write = books.marks([(settlement.key, message.data, message.sequence) for message, settlement in fresh])
        await tx.exec_driver_sql(*write.on(clerk.kind))
        clerk.orders.reached("mid_batch")
        await clerk.book(tx, [settlement for _, settlement in fresh])
        clerk.orders.reached("before_commit")


async def acked(messages: Sequence[StreamMessage]) -> None:
    """The last one confirmed, so that the server has had them all."""
    for message in messages:
        await message.ack(confirm=message is messages[-1])
