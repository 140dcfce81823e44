"""How a run is going, in one line a second, from pulses and the books; asks no process anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loadtest.chaos.databases import Unreadable
from loadtest.chaos.histories import Op

if TYPE_CHECKING:
    from loadtest.chaos.crew import Crew
    from loadtest.chaos.databases import Database


class Progress:
    """Remembers what it showed last, for rates."""

    def __init__(self, crew: Crew, database: Database, planned: int) -> None:
        self._crew = crew
        self._database = database
        self._planned = planned
        self._last = 0.0, 0, 0

    def line(self, at: float, done: int, going_on: list[str]) -> str:
        """``at`` seconds into the run, with so many faults behind it and these going on."""
        stored, unknown, refused = (self._producers(name) for name in ("ok", "unknown", "refused"))
        settled = self._settled()
        before, stored_before, settled_before = self._last
        span = max(at - before, 0.001)
        self._last = at, stored, settled
        return (
            f"{at:6.1f} s  stored {stored:>9,} ({(stored - stored_before) / span:6,.0f}/s)  "
            f"settled {settled:>9,} ({(settled - settled_before) / span:6,.0f}/s)  unknown {unknown:,}  "
            f"refused {refused:,}  faults {done}/{self._planned}  {', '.join(going_on)}"
        )

    def _producers(self, count: str) -> int:
        beats = (
            [event.counts for event in self._crew.pulse(name) if event.op is Op.BEAT]
            for name in self._crew.names("producer")
        )
        return int(sum(each[-1].get(count, 0.0) for each in beats if each))

    def _settled(self) -> int:
        try:
            return self._database.last()
        except Unreadable:  # stopped or locked on purpose: there is a next look
            return self._last[2]
