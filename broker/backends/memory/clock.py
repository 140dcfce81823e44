"""Time as the memory hub sees it: a clock that runs with the event loop, and one that a test drives by hand."""

from __future__ import annotations

import asyncio
import heapq
import time
from abc import abstractmethod
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

_NANOSECONDS: Final = 1_000_000_000


class Cancellable(Protocol):
    """Something scheduled that can be called off."""

    @abstractmethod
    def cancel(self) -> None:
        """It will not happen. Idempotent."""


class Clock(Protocol):
    """All the time a hub knows: nothing in it sleeps or polls."""

    @abstractmethod
    def now(self) -> float:
        """Seconds that only move forward."""

    @abstractmethod
    def wall_ns(self) -> int:
        """Nanoseconds since the epoch, moving in step with ``now``."""

    @abstractmethod
    def call_at(self, when: float, callback: Callable[[], None]) -> Cancellable:
        """Call back once ``now`` has reached ``when``, never before ``call_at`` has returned."""


class LoopClock(Clock):
    """The running event loop's own time, so a loop with virtual time drives the hub as well."""

    def __init__(self) -> None:
        self._anchor: tuple[float, int] | None = None

    def now(self) -> float:
        """The running loop's ``time()``."""
        return asyncio.get_running_loop().time()

    def wall_ns(self) -> int:
        """The system's time when first asked, moving with the loop from then on."""
        now = self.now()
        if self._anchor is None:
            self._anchor = (now, time.time_ns())
        start, wall = self._anchor
        return wall + round((now - start) * _NANOSECONDS)

    def call_at(self, when: float, callback: Callable[[], None]) -> Cancellable:
        """A timer of the running loop."""
        return asyncio.get_running_loop().call_at(when, callback)


class _Timer(Cancellable):
    __slots__ = ("callback", "order", "when")

    def __init__(self, when: float, order: int, callback: Callable[[], None]) -> None:
        self.when = when
        self.order = order
        self.callback: Callable[[], None] | None = callback

    def __lt__(self, other: _Timer) -> bool:
        return (self.when, self.order) < (other.when, other.order)

    def cancel(self) -> None:
        """It will not happen. Idempotent."""
        self.callback = None


class ManualClock(Clock):
    """Stands still until ``advance``; for tests that must not sleep.

    Args:
        wall_ns: the wall time at the start, nanoseconds since the epoch (2027-01-15 by default).
    """

    def __init__(self, *, wall_ns: int = 1_800_000_000 * _NANOSECONDS) -> None:
        self._now = 0.0
        self._wall_ns = wall_ns
        self._timers: list[_Timer] = []
        self._order = 0

    def now(self) -> float:
        """Seconds advanced so far."""
        return self._now

    def wall_ns(self) -> int:
        """The wall time at the start plus what was advanced."""
        return self._wall_ns + round(self._now * _NANOSECONDS)

    def call_at(self, when: float, callback: Callable[[], None]) -> Cancellable:
        """Due during the ``advance`` that reaches ``when``; one that is due already waits for the next ``advance``."""
        self._order += 1
        timer = _Timer(when, self._order, callback)
        heapq.heappush(self._timers, timer)
        return timer

    def advance(self, seconds: float) -> None:
        """Move on, firing what falls due in order of time, timers set on the way included.

        What the timers complete (fetches, requests) reaches the waiting tasks on the following turns of the loop.
        """
        target = self._now + seconds
        while self._timers and self._timers[0].when <= target:
            timer = heapq.heappop(self._timers)
            if timer.callback is not None:
                self._now = max(self._now, timer.when)
                timer.callback()
        self._now = target

    @property
    def timers(self) -> int:
        """How many timers are set and not called off."""
        return sum(timer.callback is not None for timer in self._timers)


class Alarm:
    """One timer that always stands at, or before, the earliest time it was told."""

    __slots__ = ("_clock", "_ring", "_timer", "_when")

    def __init__(self, clock: Clock, ring: Callable[[], None]) -> None:
        self._clock = clock
        self._ring = ring
        self._timer: Cancellable | None = None
        self._when = 0.0

    def set(self, when: float | None) -> None:
        """Ring at ``when`` or earlier; ``None`` for never. Whoever is rung too early sets it again."""
        if when is None:
            self.cancel()
        elif self._timer is None or when < self._when:
            self.cancel()
            self._when = when
            self._timer = self._clock.call_at(when, self._fire)

    def cancel(self) -> None:
        """Do not ring."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire(self) -> None:
        self._timer = None
        self._ring()


def after(clock: Clock, seconds: float, callback: Callable[[], None]) -> Cancellable:
    """Call back in ``seconds``; for none at all on the loop's next turn, even where the clock stands still."""
    if seconds <= 0:
        return asyncio.get_running_loop().call_soon(callback)
    return clock.call_at(clock.now() + seconds, callback)
