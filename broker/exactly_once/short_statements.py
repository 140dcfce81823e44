"""Which statements are short enough to be executed where they are awaited, on the event loop's own thread.

Waking another thread costs more than most statements of a handler. What has shown to be short is executed at once,
inside a transaction that nobody can make wait any more; what takes long goes back to the thread, so that the loop is
held up by one execution in many at worst. No I/O.
"""

from __future__ import annotations

from typing import Final

_PROOF: Final = 8
"""Executions in the thread, each of them short, before the first one at once."""
_PENANCE: Final = 256
"""The same after one that was long: parameters differ, and tables grow."""
_SHORT: Final = 0.0002
"""Seconds of processor time that a short execution takes in the thread."""
_LONG: Final = 0.001
"""Seconds that hold up a loop: longer than a trip to the thread and back on a busy machine."""
_AT_A_STRETCH: Final = 0.002
"""Seconds of executions after which the loop has a turn: a handler that only executes would never give it one."""
_KEPT: Final = 512
"""Statements that are known at a time."""


class ShortStatements:
    """What is known of a connection's statements, by their text."""

    def __init__(self) -> None:
        self._to_prove: dict[str, int] = {}
        self._stretch = 0.0

    def __contains__(self, statement: str) -> bool:
        return self._to_prove.get(statement, _PROOF) <= 0

    def took_in_thread(self, statement: str, seconds: float) -> None:
        """One more execution in the thread, in processor time: there the clock on the wall also shows other work."""
        left = self._to_prove.pop(statement, _PROOF)
        while len(self._to_prove) >= _KEPT:
            del self._to_prove[next(iter(self._to_prove))]
        self._to_prove[statement] = max(0, left - 1) if seconds < _SHORT else max(left, _PROOF)

    def took_at_once(self, statement: str, seconds: float) -> None:
        """One more execution at once, in time on the wall."""
        self._stretch += seconds
        if seconds > _LONG:
            self._to_prove[statement] = _PENANCE

    def loop_is_due(self) -> bool:
        """Whether the loop has to have a turn before the next one."""
        if self._stretch < _AT_A_STRETCH:
            return False
        self._stretch = 0.0
        return True
