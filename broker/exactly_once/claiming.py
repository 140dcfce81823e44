"""Which rows of the outbox a relay may send: each ordering key from its first one on, nobody else's.

New rows and those that failed before are taken apart, so that however many fail, no others wait behind them; and those
of subjects on which nobody answers are passed over, but for one of each now and then.
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
    from collections.abc import AsyncIterator, Iterable, Iterator, Sequence

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
        """Its headers, as ``enqueue`` takes them; those that nobody of us wrote are such as it refuses."""
        if self.headers is None:
            return None
        named: dict[str, list[str]] = {}
        try:
            for name, value in json.loads(self.headers):
                named.setdefault(str(name), []).append(value)
        except (ValueError, TypeError):
            return {"": [self.headers]}
        return named


_ROW: Final = tuple(OUTBOX.c[name] for name in Row._fields)


def _firsts(kind: Kind, *, again: bool) -> Select[Any]:
    """Rows without an ordering key, and the first unsent one of each key."""
    row = OUTBOX.c
    firsts = _any_firsts(kind)
    if again:
        return firsts.where(row.attempts > _NEVER, row.due_at <= bindparam("now")).order_by(row.due_at)
    return firsts.where(row.attempts == _NEVER).order_by(row.id)


def _any_firsts(kind: Kind) -> Select[Any]:
    row, earlier = OUTBOX.c, OUTBOX.alias("earlier")
    before = exists().where(
        and_(earlier.c.ordering_key == row.ordering_key, earlier.c.sent_at.is_(None), earlier.c.id < row.id)
    )
    firsts = select(*_ROW).where(row.sent_at.is_(None), or_(row.ordering_key.is_(None), ~before))
    firsts = firsts.limit(bindparam("batch"))
    if kind == "postgresql":
        firsts = firsts.with_for_update(skip_locked=True)
    return firsts


def _one(kind: Kind) -> Select[Any]:
    """The one of a subject that failed longest ago, due or not."""
    row = OUTBOX.c
    # Not by the index of subjects: it has everything that was ever sent there.
    one = _any_firsts(kind).where(row.attempts > _NEVER, row.subject.concat("") == bindparam("subject"))
    return one.order_by(row.due_at)


_FIRSTS: Final[dict[tuple[Kind, bool], Select[Any]]] = {
    ("sqlite", False): _firsts("sqlite", again=False),
    ("sqlite", True): _firsts("sqlite", again=True),
    ("postgresql", False): _firsts("postgresql", again=False),
    ("postgresql", True): _firsts("postgresql", again=True),
}
_NOT_OF: Final = OUTBOX.c.subject.not_in(bindparam("unheard", expanding=True))
_HEARD: Final = {which: firsts.where(_NOT_OF) for which, firsts in _FIRSTS.items()}
_ONE: Final[dict[Kind, Select[Any]]] = {"sqlite": _one("sqlite"), "postgresql": _one("postgresql")}


class Wanted(NamedTuple):
    """Which rows: see ``Claiming.claim``."""

    again: bool
    unheard: tuple[str, ...]
    ask: tuple[str, ...]


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
    async def claim(
        self, *, again: bool = False, unheard: Sequence[str] = (), ask: Sequence[str] = ()
    ) -> AsyncIterator[Claim]:
        """Rows to send, kept from other relays until the block ends; what was said of them is written then.

        Args:
            again: those that failed before and are due, otherwise the new ones; the oldest.
            unheard: none of these subjects.
            ask: but one of each of these that failed before, due or not.

        Raises:
            DatabaseUnavailable: nothing is known to be written; the rows come again.
        """
        wanted = Wanted(again, tuple(unheard), tuple(ask))
        if self._kind == "postgresql":
            async with self._transactions.begin() as tx:
                claim = Claim(await self._take(tx, wanted))
                yield claim
                await claim.write(tx, self._kind)
            return
        claim = Claim(await self._take_leased(wanted))
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

    async def _take_leased(self, wanted: Wanted) -> list[Row]:
        if not await self._holds():
            return []
        async with self._transactions.reading() as connection:
            return await self._take(connection, wanted)

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

    async def _take(self, tx: AsyncConnection, wanted: Wanted) -> list[Row]:
        rows = await self._firsts(tx, wanted)
        for subject in wanted.ask:
            rows.extend(Row(*each) for each in await tx.execute(_ONE[self._kind], {"batch": 1, "subject": subject}))
        keys = {row.ordering_key for row in rows if row.ordering_key is not None}
        if keys:
            row, seen = OUTBOX.c, {each.id for each in rows}
            behind = select(*_ROW).where(row.ordering_key.in_(keys), row.sent_at.is_(None)).order_by(row.id)
            followers = (Row(*each) for each in await tx.execute(behind.limit(self.batch)))
            rows.extend(_up_to(frozenset(wanted.unheard), (each for each in followers if each.id not in seen)))
        return rows

    async def _firsts(self, tx: AsyncConnection, wanted: Wanted) -> list[Row]:
        given: dict[str, Any] = {"now": time.time(), "batch": self.batch} if wanted.again else {"batch": self.batch}
        if wanted.unheard:
            given["unheard"] = wanted.unheard
        query = (_HEARD if wanted.unheard else _FIRSTS)[self._kind, wanted.again]
        return [Row(*each) for each in await tx.execute(query, given)]


def _up_to(unheard: frozenset[str], rows: Iterable[Row]) -> Iterator[Row]:
    """Of each ordering key those before the first that nobody would answer for."""
    ended: set[str | None] = set()
    for row in rows:
        if row.subject in unheard:
            ended.add(row.ordering_key)
        if row.ordering_key not in ended:
            yield row
