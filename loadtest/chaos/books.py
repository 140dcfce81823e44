"""The books: a double-entry ledger beside the library's inbox, in SQLite or PostgreSQL.

What is judged is the inbox, so the tables have no constraint that would help it: the same settlement twice would be
booked twice. What was written stays: triggers refuse UPDATE and DELETE. Balances are kept beside the postings, for the
checker to compare.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from loadtest.chaos.settlements import MINT, STREAM, SUBJECT, WORKERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from loadtest.chaos.settlements import Settlement

Kind = Literal["sqlite", "postgres"]

BOOKS: Final = "books.db"
"""In a run's directory: the ledger itself, or at the end a copy of it."""
INBOX: Final = "gamebroker_inbox"
"""The library's table: what is in it has taken effect."""
APPEND_ONLY: Final = ("posting", "outbox")
GUARDS: Final = frozenset(f"{table}_no_{verb}" for table in APPEND_ONLY for verb in ("update", "delete"))
"""The triggers that make it so."""
HALF: Final = 3
"""Statements of ``postings`` after which half of the settlements are booked."""
LOCKED_FOR: Final = 5.0
"""Seconds a reader waits for whoever holds the file."""

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS posting (id {number}, key TEXT NOT NULL, account TEXT NOT NULL, amount BIGINT NOT NULL);
CREATE TABLE IF NOT EXISTS outbox (id {number}, key TEXT NOT NULL, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS balance (account TEXT PRIMARY KEY, amount BIGINT NOT NULL);
"""
_REFUSE: Final = """
CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$;
"""


def tables(kind: Kind) -> str:
    """Statements that make those that are missing, guards included."""
    if kind == "sqlite":
        return _TABLES.format(number="INTEGER PRIMARY KEY AUTOINCREMENT") + guards()
    return (
        _TABLES.format(number="BIGSERIAL PRIMARY KEY")
        + _REFUSE
        + "".join(
            f"CREATE OR REPLACE TRIGGER {table}_no_{verb} BEFORE {verb} ON {table} EXECUTE FUNCTION refuse();\n"
            for table in APPEND_ONLY
            for verb in ("update", "delete")
        )
    )


def guards() -> str:
    """SQLite's triggers that refuse to change what was written."""
    return "".join(
        f"CREATE TRIGGER IF NOT EXISTS {table}_no_{verb} BEFORE {verb} ON {table} "
        f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END;\n"
        for table in APPEND_ONLY
        for verb in ("update", "delete")
    )


class Write(NamedTuple):
    """A statement, and the rows it is for. Placeholders are SQLite's."""

    statement: str
    rows: list[tuple[Any, ...]]

    def on(self, kind: Kind) -> str:
        """The statement for that kind of database."""
        return self.statement if kind == "sqlite" else self.statement.replace("?", "%s")


def legs(settlement: Settlement) -> list[tuple[str, str, int]]:
    """Key, account and amount of both sides."""
    return [(settlement.key, settlement.account, settlement.amount), (settlement.key, MINT, -settlement.amount)]


def postings(
    fresh: Sequence[Settlement], legs: Callable[[Settlement], list[tuple[str, str, int]]] = legs
) -> Iterator[Write]:
    """What these settlements come to, in two halves, so that there is a middle to die in."""
    half = len(fresh) // 2
    for some in (fresh[:half], fresh[half:]):
        rows = [leg for settlement in some for leg in legs(settlement)]
        moved: Counter[str] = Counter()
        for _, account, amount in rows:
            moved[account] += amount
        yield Write("INSERT INTO posting (key, account, amount) VALUES (?, ?, ?)", rows)
        yield Write(
            "INSERT INTO balance VALUES (?, ?) "
            "ON CONFLICT (account) DO UPDATE SET amount = balance.amount + excluded.amount",
            sorted(moved.items()),
        )
        yield Write(
            "INSERT INTO outbox (key, body) VALUES (?, ?)",
            [(settlement.key, settlement.account) for settlement in some],
        )


def marks(batch: Sequence[tuple[str, bytes, int]]) -> Write:
    """Keys, bodies and sequences as the inbox would record them: for those who go without it."""
    now = time.time()
    return Write(
        f"INSERT INTO {INBOX} (consumer, subject, key, digest, stream, sequence, at) "  # noqa: S608 - our own table
        "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        [
            (WORKERS, SUBJECT, key, hashlib.sha256(body).digest(), STREAM, sequence, now)
            for key, body, sequence in sorted(batch)
        ],
    )


def reader(path: Path) -> sqlite3.Connection:
    """A connection to a file of books that can only read."""
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=LOCKED_FOR)
