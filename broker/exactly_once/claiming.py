"""Which rows of the outbox a relay may send: each ordering key from its first one on, nobody else's.

New rows and those that failed before are taken apart, so that however many fail, no others wait behind them.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import uuid4

from sqlalchemy import ColumnElement, Select, and_, bindparam, delete, exists, literal_column, or_, select
from sqlalchemy.dialects import sqlite

from broker.exactly_once.schema import OUTBOX, RELAY
from broker.exactly_once.transactions import Transactions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from broker.contracts.envelopes import Receipt
    from broker.exactly_once.databases import Database, Kind

_LEASE: Final = 5.0
"""Seconds after which a relay of a SQLite file that is not heard of is replaced."""
_NAME: Final = "outbox"
_BACKOFF: Final = (0.25, 60.0)
"""Seconds until a row that failed is tried again: the first time, and the longest; doubling."""
_STEPS: Final = 9
_LONGEST_ERROR: Final = 512

_NEVER: Final[ColumnElement[int]] = literal_column("0")
"""No parameter: an index over some of the rows serves only a query that says in so many words that it wants those."""

_SENT: Final[dict[Kind, str]] = {
    "sqlite": "UPDATE gamebroker_outbox SET sent_at = ?, stream = ?, sequence = ?, last_error = NULL WHERE id = ?",
    "postgresql": (
        "UPDATE gamebroker_outbox o SET sent_at = v.at, stream = v.stream, sequence = v.sequence, last_error = NULL "
        "FROM unnest(%s::float8[], %s::text[], %s::bigint[], %s::bigint[]) AS v (at, stream, sequence, id) "
        "WHERE o.id = v.id"
    ),
}
_FAILED: Final[dict[Kind, str]] = {
    "sqlite": "UPDATE gamebroker_outbox SET due_at = ?, last_error = ?, attempts = attempts + 1 WHERE id = ?",
    "postgresql": (
        "UPDATE gamebroker_outbox o SET due_at = v.due, last_error = v.error, attempts = o.attempts + 1 "
        "FROM unnest(%s::float8[], %s::text[], %s::bigint[]) AS v (due, error, id) WHERE o.id = v.id"
    ),
}


class Row(NamedTuple):
    """A message to send."""

    id: int
    subject: str
    key: str
    ordering_key: str | None
    headers: str | None
    body: bytes
    attempts: int

    @property
    def pairs(self) -> dict[str, list[str]] | None:
        """Its headers, as ``enqueue`` takes them."""
        if self.headers is None:
            return None
        named: dict[str, list[str]] = {}
        for name, value in json.loads(self.headers):
            named.setdefault(name, []).append(value)
        return named


_ROW: Final = tuple(OUTBOX.c[name] for name in Row._fields)


def _firsts(kind: Kind, *, again: bool) -> Select[Any]:
    """Rows without an ordering key, and the first unsent one of each key."""
    row, earlier = OUTBOX.c, OUTBOX.alias("earlier")
    before = exists().where(
        and_(earlier.c.ordering_key == row.ordering_key, earlier.c.sent_at.is_(None), earlier.c.id < row.id)
    )
    firsts = select(*_ROW).where(row.sent_at.is_(None), or_(row.ordering_key.is_(None), ~before))
    firsts = firsts.limit(bindparam("batch"))
    if kind == "postgresql":
        firsts = firsts.with_for_update(skip_locked=True)
    if again:
        return firsts.where(row.attempts > _NEVER, row.due_at <= bindparam("now")).order_by(row.due_at)
    return firsts.where(row.attempts == _NEVER).order_by(row.id)


_FIRSTS: Final[dict[tuple[Kind, bool], Select[Any]]] = {
    ("sqlite", False): _firsts("sqlite", again=False),
    ("sqlite", True): _firsts("sqlite", again=True),
    ("postgresql", False): _firsts("postgresql", again=False),
    ("postgresql", True): _firsts("postgresql", again=True),
}


class Claim:
    """Rows in hand, and what becomes of each; what is said of none stays as it was."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self._sent: list[tuple[float, str, int, int]] = []
        self._failed: list[tuple[float, str, int]] = []

    def sent(self, row: Row, receipt: Receipt) -> None:
        """Its stream has it."""
        self._sent.append((time.time(), receipt.stream, receipt.sequence, row.id))

    def failed(self, row: Row, error: BaseException) -> None:
        """It did not get through; later."""
        pause = min(_BACKOFF[0] * 2 ** min(row.attempts, _STEPS), _BACKOFF[1])
        told = f"{type(error).__name__}: {error}".replace("\x00", " ")[:_LONGEST_ERROR]
        self._failed.append((time.time() + pause, told, row.id))

    @property
    def settled(self) -> bool:
        """Whether anything was said."""
        return bool(self._sent or self._failed)

    async def write(self, tx: AsyncConnection, kind: Kind) -> None:
        """Keep what was said."""
        for told, statements in ((self._sent, _SENT), (self._failed, _FAILED)):
            if told and kind == "sqlite":
                await tx.exec_driver_sql(statements[kind], told)
            elif told:  # no executemany: cancelled in it, psycopg 3.3 forgets that it was cancelled, and where it was
                columns = tuple(list(column) for column in zip(*told, strict=True))
                await tx.exec_driver_sql(statements[kind], columns)


class Claiming:
    """One relay's way to rows.

    On PostgreSQL the first row of each key is locked while its key is worked on, and rows that others have locked are
    skipped. On SQLite one relay holds a lease.

    Attributes:
        batch: rows taken at a time.
    """

    def __init__(self, database: Database, batch: int) -> None:
        self.batch = batch
        self._kind = database.kind
        self._transactions = Transactions(database)
        self._owner = uuid4().hex
        self._held_until = 0.0

    @asynccontextmanager
    async def claim(self, *, again: bool = False) -> AsyncIterator[Claim]:
        """Rows to send, kept from other relays until the block ends; what was said of them is written then.

        Args:
            again: those that failed before and are due, otherwise the new ones; the oldest.

        Raises:
            DatabaseUnavailable: nothing is known to be written; the rows come again.
        """
        if self._kind == "postgresql":
            async with self._transactions.begin() as tx:
                claim = Claim(await self._take(tx, again=again))
                yield claim
                await claim.write(tx, self._kind)
            return
        claim = Claim(await self._take_leased(again=again))
        yield claim
        if claim.settled:
            async with self._transactions.begin() as tx:
                await claim.write(tx, self._kind)

    async def release(self) -> None:
        """Let the next relay begin at once.

        Raises:
            DatabaseUnavailable: it begins when the lease has run out.
        """
        if self._held_until:
            self._held_until = 0.0
            async with self._transactions.begin() as tx:
                await tx.execute(delete(RELAY).where(RELAY.c.owner == self._owner))

    async def _take_leased(self, *, again: bool) -> list[Row]:
        if not await self._holds():
            return []
        async with self._transactions.reading() as connection:
            return await self._take(connection, again=again)

    async def _holds(self) -> bool:
        """Whether this relay is the one, asked and renewed well before its lease is over."""
        clock = asyncio.get_running_loop().time
        if clock() < self._held_until - _LEASE / 2:
            return True
        asked, now = clock(), time.time()
        mine = sqlite.insert(RELAY).values(name=_NAME, owner=self._owner, until=now + _LEASE)
        free = or_(RELAY.c.owner == self._owner, RELAY.c.until < now, RELAY.c.until > now + 2 * _LEASE)
        taken = mine.on_conflict_do_update(
            index_elements=["name"], set_={"owner": mine.excluded.owner, "until": mine.excluded.until}, where=free
        ).returning(RELAY.c.owner)
        async with self._transactions.begin() as tx:
            holds = (await tx.execute(taken)).first() is not None
        self._held_until = asked + _LEASE if holds else 0.0
        return holds

    async def _take(self, tx: AsyncConnection, *, again: bool) -> list[Row]:
        given = {"now": time.time(), "batch": self.batch} if again else {"batch": self.batch}
        rows = [Row(*each) for each in await tx.execute(_FIRSTS[self._kind, again], given)]
        keys = {row.ordering_key for row in rows if row.ordering_key is not None}
        if keys:
            row, seen = OUTBOX.c, {each.id for each in rows}
            behind = select(*_ROW).where(row.ordering_key.in_(keys), row.sent_at.is_(None)).order_by(row.id)
            followers = (Row(*each) for each in await tx.execute(behind.limit(self.batch)))
            rows.extend(each for each in followers if each.id not in seen)
        return rows
