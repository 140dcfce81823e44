"""The pace of a game loop, the room's and that of the idle one beside it: 60 turns a second, and how late they were."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadtest.chaos.calls import Processor

FRAMES: Final = 10
"""Of a turn."""
_TICK: Final = 1 / 60
_OFTEN: Final = 0.999
_STEP: Final = 0.000_25
_STEPS: Final = 1000
"""What a loop is late by is counted in steps of so many seconds, up to a quarter of one: a day takes no more room."""


class Lateness:
    """How late turns were, counted; seconds."""

    def __init__(self) -> None:
        self._counts = [0] * (_STEPS + 1)
        self.turns = 0
        self.longest = 0.0

    def add(self, late: float) -> None:
        """One turn more."""
        self.turns += 1
        self.longest = max(self.longest, late)
        self._counts[min(_STEPS, int(late / _STEP))] += 1

    def often(self, share: float) -> float:
        """What so many of them were not later than, to a step."""
        left = self.turns * (1 - share)
        for step in range(_STEPS, 0, -1):
            left -= self._counts[step]
            if left < 0:
                return self.longest if step == _STEPS else min(self.longest, (step + 1) * _STEP)
        return min(self.longest, _STEP)


class Pace:
    """Keeps it; counts how late turns were, the wait for a processor taken off."""

    def __init__(self, processor: Processor) -> None:
        self._processor = processor
        self._late = Lateness()
        self._latest = 0.0

    def counts(self) -> dict[str, float]:
        """So far; seconds.

        ``stall``: what 999 turns in 1,000 were not later than, with ``stall_max``; ``late_max``: the latest, the wait
        for a processor included; ``turns``.
        """
        return {
            "stall": self._late.often(_OFTEN),
            "stall_max": self._late.longest,
            "late_max": self._latest,
            "turns": float(self._late.turns),
        }

    async def keep(self, turn: Callable[[], None], stop: asyncio.Event) -> None:
        """One ``turn`` after the other until it is told to stop."""
        # As a game server does: what a process begins with is not looked through again in the middle of a turn.
        gc.collect()
        gc.freeze()
        clock = asyncio.get_running_loop().time
        due = clock()
        while not stop.is_set():
            due += _TICK
            waited = self._processor.waited()
            await asyncio.sleep(max(0.0, due - clock()))
            late = clock() - due
            now_waited = self._processor.waited()
            self._latest = max(self._latest, late)
            self._late.add(max(0.0, late - (now_waited - waited)))
            due = max(due, clock() - _TICK)  # turns that were missed are not made up for
            turn()
