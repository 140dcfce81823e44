"""Forgetting: a mark goes only when nothing can bring its message back."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from sqlalchemy import select, tuple_

from broker.contracts.errors import StreamNotFound
from broker.exactly_once.marks import check_names, nameless
from broker.exactly_once.naming import named
from broker.exactly_once.schema import INBOX

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from broker.exactly_once.databases import Kind
    from broker.exactly_once.outbox import Outbox
    from broker.exactly_once.transactions import Transactions
    from broker.stream_broker import StreamBroker

    Place = tuple[float, str, str]
    """A mark's time, subject and key: pages follow each other by it."""

_BATCH: Final = 1000
_BEGIN: Final = (0.0, "", "")
_OLD: Final[dict[Kind, str]] = {"sqlite": "consumer = ? AND at < ?", "postgresql": "consumer = %s AND at < %s"}


class Pruning:
    """One pass over the marks of one consumer of one stream.

    Attributes:
        removed: how many so far.
    """

    def __init__(self, transactions: Transactions, *, keep: float, stream: str, consumer: str) -> None:
        self.removed = 0
        self._transactions = transactions
        self._before = time.time() - keep
        self._stream = stream
        self._consumer = consumer

    async def run(self, broker: StreamBroker, outbox: Outbox | None) -> AsyncIterator[int]:
        """Remove a thousand at a time; how many each time."""
        gone_below = await self._first_sequence(broker, by_name=outbox is not None)
        letters = broker.dead_letters.list(stream=self._stream, consumer=self._consumer)
        held = {
            (letter.subject, letter.idempotency_key or nameless(letter.stored_as or "")) async for letter in letters
        }
        place: Place | None = _BEGIN
        while place is not None:
            places = await self._page(place, gone_below)
            place = places[-1] if len(places) == _BATCH else None
            names = {(subject, key) for _, subject, key in places} - held
            if names and outbox is not None:
                names -= await outbox.unsettled(names)
            if names:
                await self._remove(names)
                self.removed += len(names)
                yield len(names)

    async def _first_sequence(self, broker: StreamBroker, *, by_name: bool) -> int | None:
        """The oldest sequence that the stream still has; ``None`` when there is no such stream any more."""
        try:
            info = await broker.streams.info(self._stream)
        except StreamNotFound:
            return None
        if by_name:
            check_names(info.config)
        return info.state.first_sequence

    async def _page(self, after: Place, gone_below: int | None) -> list[Place]:
        mark = INBOX.c
        query = (
            select(mark.at, mark.subject, mark.key)
            .where(mark.consumer == self._consumer, mark.stream == self._stream, mark.at < self._before)
            .where(tuple_(mark.at, mark.subject, mark.key) > after)
            .order_by(mark.at, mark.subject, mark.key)
            .limit(_BATCH)
        )
        if gone_below is not None:
            query = query.where(mark.sequence < gone_below)
        async with self._transactions.reading() as connection:
            return [(at, subject, key) for at, subject, key in await connection.execute(query)]

    async def _remove(self, names: set[tuple[str, str]]) -> None:
        kind = self._transactions.kind
        condition, values = named(kind, names)
        statement = f"DELETE FROM gamebroker_inbox WHERE {_OLD[kind]} AND {condition}"  # noqa: S608 - placeholders
        async with self._transactions.begin() as tx:
            await tx.exec_driver_sql(statement, (self._consumer, self._before, *values))
