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
    """What is inserted: table and columns, the rows, PostgreSQL's types of the columns, and what comes last."""

    into: str
    rows: list[tuple[Any, ...]]
    types: str
    then: str = ""

    @property
    def statement(self) -> str:
        """SQLite's, for each row."""
        places = ", ".join("?" * len(self.types.split()))
        return f"INSERT INTO {self.into} VALUES ({places}) {self.then}"  # noqa: S608 - our own tables

    def on(self, kind: Kind) -> tuple[str, Any]:
        """Statement and values for that kind of database: PostgreSQL takes all rows at once, column by column."""
        if kind == "sqlite":
            return self.statement, self.rows
        columns = ", ".join(f"%s::{each}[]" for each in self.types.split())
        values = tuple(list(column) for column in zip(*self.rows, strict=True))
        return f"INSERT INTO {self.into} SELECT * FROM unnest({columns}) {self.then}", values  # noqa: S608 - likewise


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
        yield Write("posting (key, account, amount)", rows, "text text bigint")
        yield Write(
            "balance (account, amount)",
            sorted(moved.items()),
            "text bigint",
            "ON CONFLICT (account) DO UPDATE SET amount = balance.amount + excluded.amount",
        )
        yield Write("outbox (key, body)", [(settlement.key, settlement.account) for settlement in some], "text text")


def marks(batch: Sequence[tuple[str, bytes, int]]) -> Write:
    """Keys, bodies and sequences as the inbox would record them: for those who go without it."""
    now = time.time()
    return Write(
        f"{INBOX} (consumer, subject, key, digest, stream, sequence, at)",
        [
            (WORKERS, SUBJECT, key, hashlib.sha256(body).digest(), STREAM, sequence, now)
            for key, body, sequence in sorted(batch)
        ],
        "text text text bytea text bigint float8",
        "ON CONFLICT DO NOTHING",
    )


def reader(path: Path) -> sqlite3.Connection:
    """A connection to a file of books that can only read."""
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=LOCKED_FOR)
