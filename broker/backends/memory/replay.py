"""Replay at the original speed: the pauses between messages, as they were when they were stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.backends.memory.clock import Alarm, Clock

if TYPE_CHECKING:
    from collections.abc import Callable


class Replay:
    """When the next message is due.

    Args:
        clock: of the hub.
        ring: called when one that was too early is due.
    """

    def __init__(self, clock: Clock, ring: Callable[[], None]) -> None:
        self._alarm = Alarm(clock, ring)
        self._last: tuple[int, float] | None = None

    def due(self, stored_ns: int, now: float) -> bool:
        """Whether a message stored then is due; if so the pause before the next one begins, if not it rings in time."""
        if self._last is not None:
            before, at = self._last
            due = at + (stored_ns - before) / 1e9
            if due > now:
                self._alarm.set(due)
                return False
        self._last = stored_ns, now
        return True

    def pause(self) -> None:
        """Nobody is connected: no timer."""
        self._alarm.cancel()
