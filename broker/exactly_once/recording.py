"""Recording marks, in as few statements as there can be: each is a round trip, or a hop to SQLite's thread."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from broker.exactly_once.errors import DatabaseContended
from broker.exactly_once.naming import NAMES, named

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from broker.exactly_once.databases import Kind
    from broker.exactly_once.marks import Mark

Found = dict[tuple[str, str], bytes]
"""(subject, key) -> the digest that was recorded before."""

_KEPT: Final = 256
"""Statements kept for batches of as many sizes."""

_PG_INSERT: Final = (
    "INSERT INTO gamebroker_inbox (consumer, subject, key, digest, stream, sequence, at) "
    "SELECT %s::text, subject, key, digest, stream, sequence, %s::float8 "
    "FROM unnest(%s::text[], %s::text[], %s::bytea[], %s::text[], %s::bigint[]) "
    "AS mark (subject, key, digest, stream, sequence) ON CONFLICT DO NOTHING RETURNING subject, key"
)
_PG_MOVE: Final = (
    "UPDATE gamebroker_inbox i SET stream = mark.stream, sequence = mark.sequence, at = %s::float8 "
    "FROM unnest(%s::text[], %s::bigint[], %s::text[], %s::text[]) AS mark (stream, sequence, subject, key) "
    "WHERE i.consumer = %s AND i.subject = mark.subject AND i.key = mark.key"
)
_SQLITE_MOVE: Final = (
    "UPDATE gamebroker_inbox SET stream = ?, sequence = ?, at = ? WHERE consumer = ? AND subject = ? AND key = ?"
)
_WHOSE: Final[dict[Kind, str]] = {"sqlite": "consumer = ?", "postgresql": "consumer = %s"}


@lru_cache(maxsize=_KEPT)
def _sqlite_insert(count: int) -> str:
    rows = ", ".join(["(?, ?, ?, ?, ?, ?, ?)"] * count)
    columns = "consumer, subject, key, digest, stream, sequence, at"
    # ON CONFLICT DO NOTHING would have SQLite keep every page as it was, to undo the statement if a later row broke
    # another rule than that one: twice the time. None of ours can.
    return f"INSERT OR IGNORE INTO gamebroker_inbox ({columns}) VALUES {rows} RETURNING subject, key"  # noqa: S608 - placeholders


class Recording:
    """Writes and reads marks on a connection."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind

    async def record(self, tx: AsyncConnection, consumer: str, marks: Sequence[Mark]) -> Found:
        """Record marks of distinct keys, sorted; those that were recorded before, by whoever committed first.

        Waits for a transaction that records one of them right now to come to its end.

        Raises:
            DatabaseContended: one was pruned meanwhile.
        """
        found: Found = {}
        for start in range(0, len(marks), NAMES):
            some = marks[start : start + NAMES]
            fresh = await self._insert(tx, consumer, some)
            known = [mark for mark in some if (mark.subject, mark.key) not in fresh]
            if known:
                found.update(await self._known(tx, consumer, known))
                if any((mark.subject, mark.key) not in found for mark in known):
                    raise DatabaseContended("a mark was pruned while it was looked at")
        return found

    async def find(self, connection: AsyncConnection, consumer: str, keys: Sequence[tuple[str, str]]) -> Found:
        """Those of the (subject, key) pairs that are recorded; changes nothing."""
        found: Found = {}
        for start in range(0, len(keys), NAMES):
            rows = await self._select(connection, consumer, keys[start : start + NAMES])
            found.update({(subject, key): bytes(digest) for subject, key, digest, _, _ in rows})
        return found

    async def forget(self, tx: AsyncConnection, consumer: str, marks: Sequence[Mark]) -> None:
        """Take back marks of this very transaction: their messages were not applied after all."""
        names = [(mark.subject, mark.key) for mark in marks]
        for start in range(0, len(names), NAMES):
            condition, values = named(self._kind, names[start : start + NAMES])
            statement = f"DELETE FROM gamebroker_inbox WHERE {_WHOSE[self._kind]} AND {condition}"  # noqa: S608 - placeholders
            await tx.exec_driver_sql(statement, (consumer, *values))

    async def _insert(self, tx: AsyncConnection, consumer: str, marks: Sequence[Mark]) -> set[tuple[str, str]]:
        now = time.time()
        if self._kind == "sqlite":
            row = [value for mark in marks for value in (consumer, *mark, now)]
            result = await tx.exec_driver_sql(_sqlite_insert(len(marks)), tuple(row))
        else:
            columns = [list(column) for column in zip(*marks, strict=True)]
            result = await tx.exec_driver_sql(_PG_INSERT, (consumer, now, *columns))
        rows: Iterable[Any] = result
        return {(subject, key) for subject, key in rows}

    async def _known(self, tx: AsyncConnection, consumer: str, marks: Sequence[Mark]) -> Found:
        """Those that are recorded. A message that was stored once more since takes its mark along.

        Otherwise the mark would be pruned with the first copy, and the second one applied when it is read anew.
        """
        found: Found = {}
        moved = []
        asked = {(mark.subject, mark.key): mark for mark in marks}
        for subject, key, digest, stream, sequence in await self._select(tx, consumer, list(asked)):
            found[subject, key] = bytes(digest)
            mark = asked[subject, key]
            later = mark.stream != stream or mark.sequence > sequence
            if later and mark.digest == found[subject, key]:
                moved.append(mark)
        if moved:
            await self._move(tx, consumer, moved)
        return found

    async def _move(self, tx: AsyncConnection, consumer: str, marks: Sequence[Mark]) -> None:
        now = time.time()
        if self._kind == "sqlite":
            rows = [(mark.stream, mark.sequence, now, consumer, mark.subject, mark.key) for mark in marks]
            await tx.exec_driver_sql(_SQLITE_MOVE, rows)
            return
        places = [mark.stream for mark in marks], [mark.sequence for mark in marks]
        names = [mark.subject for mark in marks], [mark.key for mark in marks]
        await tx.exec_driver_sql(_PG_MOVE, (now, *places, *names, consumer))

    async def _select(self, tx: AsyncConnection, consumer: str, keys: Sequence[tuple[str, str]]) -> Iterable[Any]:
        condition, values = named(self._kind, keys)
        columns = "subject, key, digest, stream, sequence"
        statement = f"SELECT {columns} FROM gamebroker_inbox WHERE {_WHOSE[self._kind]} AND {condition}"  # noqa: S608 - placeholders
        return await tx.exec_driver_sql(statement, (consumer, *values))
