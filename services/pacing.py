"""When ticks run: absolute deadlines, so that a loop that is late once is not late for ever.

Tick n is due at ``start + n / rate``, whatever the ticks before it took. ``Pacer`` is arithmetic on times handed to it;
only ``drive`` waits.
"""

from __future__ import annotations

import asyncio
import math
import random
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

CATCH_UP: Final = 3
"""Ticks that a room runs at one wake-up at most."""
PHASES: Final = 16
"""Moments in a tick at which loops of one process run."""
EARLY: Final = 0.001
"""Seconds before its deadline that a tick may run: event loops round their timers to a millisecond."""

_BUCKETS_PER_MS: Final = 10
_BUCKETS_PER_SECOND: Final = 1000 * _BUCKETS_PER_MS
_BUCKETS: Final = 200 * _BUCKETS_PER_MS


class Pacer:
    """Says which ticks are due. At any time ``planned == run + skipped``.

    Args:
        rate: ticks per second.
        start: when tick 0 is due, in seconds of some clock.
        catch_up: ticks run at one wake-up at most; older ones are skipped and counted.
    """

    def __init__(self, rate: float, start: float, *, catch_up: int = CATCH_UP) -> None:
        self._rate = rate
        self._start = start
        self._catch_up = catch_up
        self.run = 0
        self.skipped = 0

    @property
    def start(self) -> float:
        """When tick 0 was due."""
        return self._start

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
        """The ticks to run at ``now``: the newest that are due, at most ``catch_up``."""
        came = max(self.planned, math.floor((now + EARLY - self._start) * self._rate) + 1)
        waiting = came - self.planned
        count = min(waiting, self._catch_up)
        self.skipped += waiting - count
        self.run += count
        return range(came - count, came)


def spread(count: int, *, rate: float, now: float) -> list[float]:
    """Starts for so many loops of one process: shared out evenly over ``PHASES`` moments of a tick.

    Not all at one moment, so that none waits for all others; not each at its own, so that those of a moment share
    one wake-up and one write to the connection. Where in the tick the first moment is, is random: processes of one
    machine started together do not wake together.
    """
    first = now + random.uniform(0, 1 / rate)
    return [first + number % PHASES / PHASES / rate for number in range(count)]


class Lateness:
    """How late things were: counts in buckets of 0.1 ms up to 200 ms, so its size does not grow with time."""

    def __init__(self) -> None:
        self._buckets = [0] * (_BUCKETS + 1)
        self._total = 0
        self.max = 0.0

    def record(self, seconds: float, times: int = 1) -> None:
        """Count one, or ``times`` that were equally late; early is not late."""
        late = max(0.0, seconds)
        self._buckets[min(int(late * _BUCKETS_PER_SECOND), _BUCKETS)] += times
        self._total += times
        self.max = max(self.max, late)

    def counts(self) -> dict[int, int]:
        """Tenths of a millisecond, rounded down -> how many were that late; 2000 stands for all from 200 ms on."""
        return {index: count for index, count in enumerate(self._buckets) if count}

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
