"""The double-entry ledger in SQLite: a battle is paid once, in one transaction with everything that follows from it.

No ``await`` and no broker in this file. What was written stays: triggers refuse UPDATE and DELETE.
"""

from __future__ import annotations

import hashlib
import time
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Self

import msgspec

from services.events import LEADERBOARD_UPDATE
from services.settlement.rewards import leaderboard_updates, rewards
from services.sqlite_file import open_sqlite, transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from services.events import BattleEnded

_APPEND_ONLY: Final = ("settlement", "entry", "repeat", "quarantine")

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS settlement (
    battle_id TEXT PRIMARY KEY, payload_hash TEXT NOT NULL, room TEXT NOT NULL, epoch INTEGER NOT NULL,
    rules_version INTEGER NOT NULL, sequence INTEGER NOT NULL, worker TEXT NOT NULL, settled_at REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS entry (
    tx TEXT NOT NULL REFERENCES settlement (battle_id), n INTEGER NOT NULL, account TEXT NOT NULL,
    currency TEXT NOT NULL, amount INTEGER NOT NULL CHECK (typeof(amount) = 'integer' AND amount <> 0),
    PRIMARY KEY (tx, n), UNIQUE (tx, account, currency)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS repeat (
    id INTEGER PRIMARY KEY, battle_id TEXT NOT NULL REFERENCES settlement (battle_id), sequence INTEGER NOT NULL,
    attempt INTEGER NOT NULL, worker TEXT NOT NULL, seen_at REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS quarantine (
    battle_id TEXT NOT NULL REFERENCES settlement (battle_id), payload_hash TEXT NOT NULL, sequence INTEGER NOT NULL,
    body BLOB NOT NULL, worker TEXT NOT NULL, seen_at REAL NOT NULL, PRIMARY KEY (battle_id, payload_hash)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT, subject TEXT NOT NULL, key TEXT NOT NULL UNIQUE, body BLOB NOT NULL,
    worker TEXT NOT NULL, created_at REAL NOT NULL, sent_at REAL
);
CREATE INDEX IF NOT EXISTS outbox_unsent ON outbox (id) WHERE sent_at IS NULL;
""" + "".join(
    f"CREATE TRIGGER IF NOT EXISTS {table}_no_{verb} BEFORE {verb} ON {table} "
    f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END;\n"
    for table in _APPEND_ONLY
    for verb in ("update", "delete")
)


class Outcome(StrEnum):
    """What became of a battle's result."""

    APPLIED = "applied"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"


@dataclass(frozen=True, slots=True)
class Delivered:
    """Which copy of a result is being applied: its number in the stream and how often it was handed out."""

    sequence: int
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message that follows from a settlement, waiting to be enqueued with its key."""

    id: int
    subject: str
    key: str
    body: bytes


def payload_hash(ended: BattleEnded) -> str:
    """Equal for equal results, whatever bytes they came as."""
    return hashlib.sha256(msgspec.json.encode(ended)).hexdigest()


class Ledger:
    """One process's hold of the ledger; several processes may share the file. One thread at a time may use it."""

    def __init__(
        self, path: Path, *, worker: str, busy_timeout: float = 5.0, clock: Callable[[], float] = time.time
    ) -> None:
        self._worker = worker
        self._clock = clock
        self._db = open_sqlite(path, _SCHEMA, busy_timeout=busy_timeout)

    def close(self) -> None:
        """Let go of the file. Idempotent."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def apply(self, ended: BattleEnded, copy: Delivered) -> Outcome:
        """Pay the battle unless it was paid. Returned means committed.

        The same result again is a duplicate: noted, no effect. Another result under the same id is a conflict: kept
        in quarantine for a person to look at, never paid.

        Raises:
            UnpayableResult: no rules pay it; nothing was written.
            sqlite3.OperationalError: the file was locked too long; nothing was written.
        """
        legs = rewards(ended)
        digest = payload_hash(ended)
        now = self._clock()
        with transaction(self._db):
            with closing(self._db.cursor()) as cursor:
                cursor.execute("SELECT payload_hash FROM settlement WHERE battle_id = ?", (ended.battle_id,))
                paid = cursor.fetchone()
            if paid is None:
                self._pay(ended, copy, digest, now)
                self._db.executemany(
                    "INSERT INTO entry VALUES (?, ?, ?, ?, ?)",
                    [(ended.battle_id, n, leg.account, leg.currency, leg.amount) for n, leg in enumerate(legs)],
                )
                return Outcome.APPLIED
            if paid[0] == digest:
                self._db.execute(
                    "INSERT INTO repeat (battle_id, sequence, attempt, worker, seen_at) VALUES (?, ?, ?, ?, ?)",
                    (ended.battle_id, copy.sequence, copy.attempt, self._worker, now),
                )
                return Outcome.DUPLICATE
            self._db.execute(
                "INSERT OR IGNORE INTO quarantine VALUES (?, ?, ?, ?, ?, ?)",
                (ended.battle_id, digest, copy.sequence, msgspec.json.encode(ended), self._worker, now),
            )
            return Outcome.CONFLICT

    def _pay(self, ended: BattleEnded, copy: Delivered, digest: str, now: float) -> None:
        self._db.execute(
            "INSERT INTO settlement VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                ended.battle_id,
                digest,
                ended.room,
                ended.epoch,
                ended.rules_version,
                copy.sequence,
                self._worker,
                now,
            ),
        )
        self._db.executemany(
            "INSERT INTO outbox (subject, key, body, worker, created_at) VALUES (?, ?, ?, ?, ?)",
            [
                (LEADERBOARD_UPDATE, update.event_id, msgspec.json.encode(update), self._worker, now)
                for update in leaderboard_updates(ended)
            ],
        )

    def unsent(self, *, limit: int, orphaned_after: float) -> list[Outgoing]:
        """What this worker still has to enqueue, oldest first, and what others left lying so many seconds.

        Two workers may get the same row: its key makes the second enqueue a duplicate.
        """
        with closing(self._db.cursor()) as cursor:
            cursor.execute(
                "SELECT id, subject, key, body FROM outbox "
                "WHERE sent_at IS NULL AND (worker = ? OR created_at <= ?) ORDER BY id LIMIT ?",
                (self._worker, self._clock() - orphaned_after, limit),
            )
            return [Outgoing(*row) for row in cursor.fetchall()]

    def mark_sent(self, sent: Sequence[Outgoing]) -> None:
        """They are stored in their streams. Lost to a crash, they are only enqueued once more with the same key."""
        now = self._clock()
        with transaction(self._db):
            self._db.executemany("UPDATE outbox SET sent_at = ? WHERE id = ?", [(now, row.id) for row in sent])
