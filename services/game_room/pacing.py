"""When ticks run: absolute deadlines, so that a loop that is late once is not late for ever.

Tick n is due at ``start + n / rate``, whatever the ticks before it took. ``Pacer`` is arithmetic on times handed to it;
only ``drive`` waits.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

CATCH_UP: Final = 3
"""Ticks run at one wake-up at most; older ones are skipped and counted."""
EARLY: Final = 0.001
"""Seconds before its deadline that a tick may run: event loops round their timers to a millisecond."""

_BUCKETS_PER_MS: Final = 10
_BUCKETS: Final = 200 * _BUCKETS_PER_MS


class Pacer:
    """Says which ticks are due. At any time ``planned == run + skipped``."""

    def __init__(self, rate: float, start: float) -> None:
        self._rate = rate
        self._start = start
        self.run = 0
        self.skipped = 0

    @property
    def planned(self) -> int:
        """Ticks whose deadline has come."""
        return self.run + self.skipped

    @property
    def deadline(self) -> float:
        """When the next tick is due."""
        return self.due_at(self.planned)

    def due_at(self, tick: int) -> float:
        """When that tick is due."""
        return self._start + tick / self._rate

    def due(self, now: float) -> range:
        """The ticks to run at ``now``: the newest that are due, at most ``CATCH_UP``."""
        came = max(self.planned, math.floor((now + EARLY - self._start) * self._rate) + 1)
        waiting = came - self.planned
        count = min(waiting, CATCH_UP)
        self.skipped += waiting - count
        self.run += count
        return range(came - count, came)


class Lateness:
    """How late things were: counts in buckets of 0.1 ms up to 200 ms, so its size does not grow with time."""

    def __init__(self) -> None:
        self._buckets = [0] * (_BUCKETS + 1)
        self._total = 0
        self.max = 0.0

    def record(self, seconds: float) -> None:
        """Count one; early is not late."""
        late = max(0.0, seconds)
        self._buckets[min(int(late * 1000 * _BUCKETS_PER_MS), _BUCKETS)] += 1
        self._total += 1
        self.max = max(self.max, late)

    def quantile(self, share: float) -> float:
        """Seconds that ``share`` of all were not later than, rounded up to a bucket; 0.0 when there are none."""
        needed = math.ceil(share * self._total)
        counted = 0
        for index, count in enumerate(self._buckets[:-1]):
            counted += count
            if counted >= needed:
                return min((index + 1) / 1000 / _BUCKETS_PER_MS, self.max)
        return self.max


async def drive(
    pacer: Pacer,
    step: Callable[[int], bool],
    *,
    lateness: Lateness,
    clock: Callable[[], float],
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> None:
    """Call ``step(tick)`` at each tick's deadline until it returns ``False``.

    A step that raises ends the loop with that exception.
    """
    while True:
        await sleep(max(0.0, pacer.deadline - clock()))
        for tick in pacer.due(clock()):
            lateness.record(clock() - pacer.due_at(tick))
            if not step(tick):
                return
