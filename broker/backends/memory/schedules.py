"""Messages that wait in a memory stream for their time."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Final

from broker.backends.memory.clock import Alarm
from broker.contracts.headers import MESSAGE_ID, Headers
from broker.contracts.schedules import next_cron

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.backends.memory.clock import Clock
    from broker.backends.memory.log import Stored, StreamLog
    from broker.contracts.schedules import Schedule

_SECOND: Final = 1_000_000_000


class Schedules:
    """What is due when; a schedule whose entry was purged or replaced is forgotten when its time comes.

    Args:
        clock: keeps the time.
        log: where the entries wait.
        store: stores one under its target.
        remove: removes an entry.
    """

    def __init__(
        self,
        clock: Clock,
        log: StreamLog,
        store: Callable[[str, bytes, Headers | None], object],
        remove: Callable[[int], object],
    ) -> None:
        self._clock = clock
        self._log = log
        self._store = store
        self._remove = remove
        self._due: list[tuple[float, int, Schedule]] = []
        self._alarm = Alarm(clock, self._ring)

    def keep(self, sequence: int, schedule: Schedule) -> None:
        """An entry was stored that waits."""
        due = self._first(schedule)
        if due is not None:
            heapq.heappush(self._due, (due, sequence, schedule))
        self.resume()

    def pause(self) -> None:
        """No timers."""
        self._alarm.cancel()

    def resume(self) -> None:
        """Set the timer that is needed."""
        self._alarm.set(self._due[0][0] if self._due else None)

    def _ring(self) -> None:
        now = self._clock.now()
        while self._due and self._due[0][0] <= now:
            due, sequence, schedule = heapq.heappop(self._due)
            entry = self._log.get(sequence)
            if entry is None:
                continue
            again = self._again(due, schedule)
            if again is None:
                self._remove(sequence)
            else:
                heapq.heappush(self._due, (again, sequence, schedule))
            self._store(schedule.target, entry.data, _delivered(entry))
        self.resume()

    def _first(self, schedule: Schedule) -> float | None:
        now = self._clock.now()
        if schedule.at_ns is not None:
            return now + max(0.0, (schedule.at_ns - self._clock.wall_ns()) / _SECOND)
        if schedule.delay is not None:
            return now + schedule.delay
        return self._again(now, schedule)

    def _again(self, after: float, schedule: Schedule) -> float | None:
        if schedule.every is not None:
            return after + schedule.every
        if schedule.cron is None:
            return None
        offset = self._clock.wall_ns() - round(self._clock.now() * _SECOND)
        following = next_cron(schedule.cron, schedule.zone, round(after * _SECOND) + offset)
        return None if following is None else (following - offset) / _SECOND


def _delivered(entry: Stored) -> Headers | None:
    """The server drops the entry's own id; the caller's headers stay."""
    pairs = [pair for pair in (entry.headers.pairs if entry.headers else ()) if pair[0] != MESSAGE_ID]
    return Headers(pairs) if pairs else None
