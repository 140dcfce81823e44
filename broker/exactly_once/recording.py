"""Recording marks, in as few statements as there can be: each is a round trip, or a hop to SQLite's thread."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from broker.exactly_once.errors import DatabaseContended

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from broker.exactly_once.databases import Kind
    from broker.exactly_once.marks import Mark

Found = dict[tuple[str, str], bytes]
"""(subject, key) -> the digest that was recorded before."""

_CHUNK: Final = 1000
"""Marks in one statement at most: SQLite takes 32,766 parameters, and each mark is seven."""
_KEPT: Final = 256
"""Statements kept for batches of as many sizes."""

_PG_INSERT: Final = (
    "INSERT INTO gamebroker_inbox (consumer, subject, key, digest, stream, sequence, at) "
    "SELECT %s::text, subject, key, digest, stream, sequence, %s::float8 "
    "FROM unnest(%s::text[], %s::text[], %s::bytea[], %s::text[], %s::bigint[]) "
    "AS mark (subject, key, digest, stream, sequence) ON CONFLICT DO NOTHING RETURNING subject, key"
)
_PG_SELECT: Final = (
    "SELECT i.subject, i.key, i.digest FROM unnest(%s::text[], %s::text[]) AS mark (subject, key) "
    "JOIN gamebroker_inbox i ON i.consumer = %s AND i.subject = mark.subject AND i.key = mark.key"
)

_PG_DELETE: Final = (
    "DELETE FROM gamebroker_inbox i USING unnest(%s::text[], %s::text[]) AS mark (subject, key) "
    "WHERE i.consumer = %s AND i.subject = mark.subject AND i.key = mark.key"
)
_SQLITE_DELETE: Final = "DELETE FROM gamebroker_inbox WHERE consumer = ? AND subject = ? AND key = ?"


@lru_cache(maxsize=_KEPT)
def _sqlite_insert(count: int) -> str:
    rows = ", ".join(["(?, ?, ?, ?, ?, ?, ?)"] * count)
    columns = "consumer, subject, key, digest, stream, sequence, at"
    return f"INSERT INTO gamebroker_inbox ({columns}) VALUES {rows} ON CONFLICT DO NOTHING RETURNING subject, key"  # noqa: S608 - placeholders


@lru_cache(maxsize=_KEPT)
def _sqlite_select(count: int) -> str:
    keys = ", ".join(["(?, ?)"] * count)
    # CROSS JOIN keeps the order: each key is looked up. (subject, key) IN (...) would read all that consumer's marks.
    return (
        f"WITH mark (subject, key) AS (VALUES {keys}) SELECT i.subject, i.key, i.digest FROM mark "  # noqa: S608 - placeholders
        "CROSS JOIN gamebroker_inbox i ON i.consumer = ? AND i.subject = mark.subject AND i.key = mark.key"
    )


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
        for start in range(0, len(marks), _CHUNK):
            some = marks[start : start + _CHUNK]
            fresh = await self._insert(tx, consumer, some)
            known = [mark for mark in some if (mark.subject, mark.key) not in fresh]
            if known:
                found.update(await self._select(tx, consumer, [(mark.subject, mark.key) for mark in known]))
                if any((mark.subject, mark.key) not in found for mark in known):
                    raise DatabaseContended("a mark was pruned while it was looked at")
        return found

    async def find(self, tx: AsyncConnection, consumer: str, keys: Sequence[tuple[str, str]]) -> Found:
        """Those of the (subject, key) pairs that are recorded."""
        found: Found = {}
        for start in range(0, len(keys), _CHUNK):
            found.update(await self._select(tx, consumer, keys[start : start + _CHUNK]))
        return found

    async def forget(self, tx: AsyncConnection, consumer: str, marks: Sequence[Mark]) -> None:
        """Take back marks of this very transaction: their messages were not applied after all."""
        if self._kind == "sqlite":
            await tx.exec_driver_sql(_SQLITE_DELETE, [(consumer, mark.subject, mark.key) for mark in marks])
            return
        # No executemany: cancelled in it, psycopg 3.3 forgets that it was cancelled, and where it was.
        names = [mark.subject for mark in marks], [mark.key for mark in marks]
        await tx.exec_driver_sql(_PG_DELETE, (*names, consumer))

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

    async def _select(self, tx: AsyncConnection, consumer: str, keys: Sequence[tuple[str, str]]) -> Found:
        if self._kind == "sqlite":
            flat = [value for key in keys for value in key]
            result = await tx.exec_driver_sql(_sqlite_select(len(keys)), (*flat, consumer))
        else:
            subjects, names = zip(*keys, strict=True)
            result = await tx.exec_driver_sql(_PG_SELECT, (list(subjects), list(names), consumer))
        rows: Iterable[Any] = result
        return {(subject, key): bytes(digest) for subject, key, digest in rows}
