"""How the run is going, from the records and databases that are there at this moment."""

from __future__ import annotations

import sqlite3
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from services.demo.evidence import records, rows

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_TOTALS: Final = frozenset({"totals", "final"})
_SUMMED: Final = ("planned", "run", "skipped", "frames", "retries", "batches")
_SEEN: Final = ("received", "lost", "superseded", "commands")
_TIMES: Final = ("hop_p50", "hop_p99", "hop_max")
_ABSORBED: Final = "SELECT (SELECT count(*) FROM gamebroker_inbox) - (SELECT count(*) FROM settlement)"
"""What was applied and paid nothing."""


@dataclass(slots=True)
class Snapshot:
    """Counts so far; times in seconds, of the last second or, after the end, of the whole run."""

    rooms: Counter[str] = field(default_factory=Counter)
    passings: Counter[str] = field(default_factory=Counter)
    rulings: Counter[str] = field(default_factory=Counter)
    late_p99: float = 0.0
    late_max: float = 0.0
    seen: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_SEEN, 0))
    hop: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_TIMES, 0.0))
    ended: int = 0
    settled: int = 0
    absorbed: int = 0
    unsent: int = 0
    ledger_sum: int = 0
    entries: int = 0
    counted: int = 0

    def line(self) -> str:
        """In one line."""
        return (
            f"frames {self.seen['received']:,} (lost {self.seen['lost']})  hop p99 {ms(self.hop['hop_p99'])}  "
            f"ticks skipped {self.rooms['skipped']}  commands {self.seen['commands']:,}  "
            f"battles ended {self.ended}, settled {self.settled}  duplicates absorbed {self.absorbed}"
        )


def ms(seconds: float) -> str:
    """Milliseconds with one decimal."""
    return f"{seconds * 1000:.1f} ms"


class Progress:
    """Looks at a run's files; asks no process anything."""

    def __init__(self, *, histories: Sequence[Path], crowd: Path, ledger: Path, standings: Path) -> None:
        self._histories = histories
        self._crowd = crowd
        self._ledger = ledger
        self._standings = standings

    def look(self) -> Snapshot:
        """The run as it is now."""
        now = Snapshot()
        for path in self._histories:
            lines = records(path)
            now.ended += sum(line["op"] == "ended" for line in lines)
            self._add_rooms(now, _last_totals(lines))
        seen = _last_totals(records(self._crowd))
        gateway = seen.get("gateway", {})
        now.seen |= {name: each[name] for each in (seen, gateway) for name in _SEEN if name in each}
        now.passings.update(gateway.get("passings", {}))
        now.hop |= {name: seen[name] for name in _TIMES if name in seen}
        now.settled = self._count(self._ledger, "SELECT count(*) FROM settlement")
        now.absorbed = self._count(self._ledger, _ABSORBED)
        now.unsent = self._count(self._ledger, "SELECT count(*) FROM gamebroker_outbox WHERE sent_at IS NULL")
        now.entries = self._count(self._ledger, "SELECT count(*) FROM entry")
        now.ledger_sum = self._count(self._ledger, "SELECT coalesce(sum(amount), 0) FROM entry")
        now.counted = self._count(self._standings, "SELECT count(*) FROM applied")
        return now

    def top(self, count: int) -> list[tuple[Any, ...]]:
        """The first players of the board, by points."""
        return rows(
            self._standings,
            "SELECT player, score, events FROM standing ORDER BY score DESC, reached_at, player LIMIT ?",
            count,
        )

    @staticmethod
    def _add_rooms(now: Snapshot, totals: dict[str, Any]) -> None:
        now.rooms.update({name: totals.get(name, 0) for name in _SUMMED})
        now.rulings.update(totals.get("commands", {}))
        now.late_p99 = max(now.late_p99, totals.get("late_p99", 0.0))
        now.late_max = max(now.late_max, totals.get("late_max", 0.0))

    @staticmethod
    def _count(path: Path, query: str) -> int:
        try:
            found = rows(path, query)
        except sqlite3.OperationalError:
            # Being made, or being recovered after the kill: there is a next look, and the verdict does not use this.
            return 0
        return int(found[0][0]) if found else 0


def _last_totals(lines: list[dict[str, Any]]) -> dict[str, Any]:
    return next((line for line in reversed(lines) if line["op"] in _TOTALS), {})
