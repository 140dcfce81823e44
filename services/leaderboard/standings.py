"""Standings in SQLite: the id of an event and its points in one transaction, so that each counts once.

No ``await`` and no broker in this file.

Order: more points first; with equal points the one who had them earlier (by the time of the latest event that brought
any, not by its arrival); then the player id. Every part comes out the same in whatever order events arrive, and no two
players are equal.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Self

from services.sqlite_file import open_sqlite, transaction

if TYPE_CHECKING:
    from pathlib import Path

    from services.events import LeaderboardUpdate

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS applied (
    event_id TEXT PRIMARY KEY, board TEXT NOT NULL, player TEXT NOT NULL, points INTEGER NOT NULL,
    event_time INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS standing (
    board TEXT NOT NULL, player TEXT NOT NULL, score INTEGER NOT NULL, events INTEGER NOT NULL,
    reached_at INTEGER NOT NULL, PRIMARY KEY (board, player)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS standing_order ON standing (board, score DESC, reached_at, player);
"""


class Applied(StrEnum):
    """What became of an event."""

    COUNTED = "counted"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"


@dataclass(frozen=True, slots=True)
class Standing:
    """A player's place on a board."""

    place: int
    player: str
    score: int
    events: int


class Standings:
    """The boards of one file. One thread at a time may use it."""

    def __init__(self, path: Path, *, busy_timeout: float = 5.0) -> None:
        self._db = open_sqlite(path, _SCHEMA, busy_timeout=busy_timeout)

    def close(self) -> None:
        """Let go of the file. Idempotent."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def apply(self, update: LeaderboardUpdate) -> Applied:
        """Count the event unless it was counted. Returned means committed.

        The first one under an id stands; another one under the same id is a conflict and has no effect.

        Raises:
            sqlite3.OperationalError: the file was locked too long; nothing was written.
        """
        event = (update.board, update.player, update.points, update.event_time)
        # No points, nothing reached: otherwise a game that won nothing would cost the place among equals.
        reached_at = update.event_time if update.points else 0
        with transaction(self._db):
            with closing(self._db.cursor()) as cursor:
                cursor.execute(
                    "SELECT board, player, points, event_time FROM applied WHERE event_id = ?", (update.event_id,)
                )
                counted = cursor.fetchone()
            if counted is not None:
                return Applied.DUPLICATE if counted == event else Applied.CONFLICT
            self._db.execute("INSERT INTO applied VALUES (?, ?, ?, ?, ?)", (update.event_id, *event))
            self._db.execute(
                "INSERT INTO standing VALUES (?, ?, ?, 1, ?) ON CONFLICT (board, player) DO UPDATE SET "
                "score = score + excluded.score, events = events + 1, "
                "reached_at = max(reached_at, excluded.reached_at)",
                (*event[:3], reached_at),
            )
            return Applied.COUNTED

    def top(self, board: str, count: int) -> list[Standing]:
        """The first ``count`` of a board, in the order this file's header fixes."""
        with closing(self._db.cursor()) as cursor:
            cursor.execute(
                "SELECT player, score, events FROM standing WHERE board = ? "
                "ORDER BY score DESC, reached_at, player LIMIT ?",
                (board, count),
            )
            return [Standing(place, *row) for place, row in enumerate(cursor.fetchall(), start=1)]
