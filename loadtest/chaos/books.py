"""The books: a double-entry ledger in SQLite, with an inbox that makes a settlement take effect once.

What is judged is the inbox, so the tables have no constraint that would help it: the same settlement twice would be
booked twice. What was written stays: triggers refuse UPDATE and DELETE. Balances are kept beside the postings, for the
checker to compare.
"""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, Self

from loadtest.chaos.settlements import MINT
from services.sqlite_file import open_sqlite, transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from loadtest.chaos.settlements import Settlement

APPEND_ONLY: Final = ("inbox", "posting", "outbox")
LOCKED_FOR: Final = 1.0
"""Seconds a statement waits for whoever holds the file."""

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS inbox (
    key TEXT PRIMARY KEY, digest TEXT NOT NULL, sequence INTEGER NOT NULL, worker TEXT NOT NULL, at REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS posting (
    id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, account TEXT NOT NULL, amount INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS balance (account TEXT PRIMARY KEY, amount INTEGER NOT NULL) WITHOUT ROWID;
""" + "".join(
    f"CREATE TRIGGER IF NOT EXISTS {table}_no_{verb} BEFORE {verb} ON {table} "
    f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END;\n"
    for table in APPEND_ONLY
    for verb in ("update", "delete")
)


class Outcome(StrEnum):
    """What became of a delivery."""

    APPLIED = "applied"
    REPEATED = "repeated"
    CONFLICT = "conflict"


class Delivered(NamedTuple):
    """A settlement as it was handed out: its payload's digest and its number in the stream."""

    settlement: Settlement
    digest: str
    sequence: int


class Books(Protocol):
    """Where settlements take effect. The seam: an inbox of another make goes here."""

    def apply(self, batch: Sequence[Delivered], reached: Callable[[str], None]) -> list[Outcome]:
        """Book what was not booked before. Returned means committed; blocks, one thread at a time.

        ``reached`` is told ``mid_batch``, ``before_commit`` and ``after_commit`` where there is something to book.

        Raises:
            sqlite3.OperationalError: somebody else held the file too long; nothing was written.
        """


class InboxBooks:
    """One transaction per batch: keys, postings, balances and what is to be sent on, together."""

    def __init__(self, path: Path, *, worker: str) -> None:
        self._worker = worker
        self._db = open_sqlite(path, SCHEMA, busy_timeout=LOCKED_FOR)

    def apply(self, batch: Sequence[Delivered], reached: Callable[[str], None]) -> list[Outcome]:
        """See ``Books``."""
        outcomes = []
        fresh: list[Settlement] = []
        with transaction(self._db):
            for delivered in batch:
                outcomes.append(self._claim(delivered))
                if outcomes[-1] is Outcome.APPLIED:
                    fresh.append(delivered.settlement)
            if fresh:
                self._book(fresh, reached)
                reached("before_commit")
        if fresh:
            reached("after_commit")
        return outcomes

    def _claim(self, delivered: Delivered) -> Outcome:
        """Put the key into the inbox, unless it is there."""
        settlement, digest, sequence = delivered
        made = self._db.execute(
            "INSERT INTO inbox VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (settlement.key, digest, sequence, self._worker, time.time()),
        )
        if made.rowcount:
            return Outcome.APPLIED
        [known] = self._db.execute("SELECT digest FROM inbox WHERE key = ?", (settlement.key,)).fetchone()
        return Outcome.REPEATED if known == digest else Outcome.CONFLICT

    def _book(self, fresh: Sequence[Settlement], reached: Callable[[str], None]) -> None:
        half = len(fresh) // 2
        self._post(fresh[:half])
        reached("mid_batch")
        self._post(fresh[half:])
        self._db.executemany(
            "INSERT INTO outbox (key, body) VALUES (?, ?)",
            [(settlement.key, settlement.account.encode()) for settlement in fresh],
        )

    def _post(self, some: Sequence[Settlement]) -> None:
        legs = [leg for settlement in some for leg in self._legs(settlement)]
        self._db.executemany("INSERT INTO posting (key, account, amount) VALUES (?, ?, ?)", legs)
        moved: Counter[str] = Counter()
        for _, account, amount in legs:
            moved[account] += amount
        self._db.executemany(
            "INSERT INTO balance VALUES (?, ?) ON CONFLICT DO UPDATE SET amount = amount + excluded.amount",
            sorted(moved.items()),
        )

    def _legs(self, settlement: Settlement) -> list[tuple[str, str, int]]:
        return [
            (settlement.key, settlement.account, settlement.amount),
            (settlement.key, MINT, -settlement.amount),
        ]

    def close(self) -> None:
        """Let go of the file. Idempotent."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def reader(path: Path) -> sqlite3.Connection:
    """A connection that can only read."""
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=LOCKED_FOR * 5)
