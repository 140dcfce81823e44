"""Which statements are executed where they are awaited, on the event loop's own thread, for how long, and how often.

Waking another thread costs more than most statements of a handler. What has shown to be short is executed at once, if
it cannot become long, as an INSERT of given values, or can be given up, as a SELECT. No I/O.
"""

from __future__ import annotations

import asyncio
import re
from time import perf_counter
from typing import Final

_PROOF: Final = 8
"""Executions in the thread, each of them short, before the first one at once."""
_PENANCE: Final = 256
"""The same after one that was long: parameters differ, and tables grow."""
_SHORT: Final = 0.0002
"""Seconds of processor time that a short execution takes in the thread."""
LONG: Final = 0.001
"""Seconds that hold up a loop: longer than a trip to the thread and back on a busy machine."""
_AT_A_STRETCH: Final = 0.002
"""Seconds without a turn of the loop, after which it has one: a handler that only executes would never give it any."""
_KEPT: Final = 512
"""Statements that are known at a time."""
_LONGEST: Final = 4_000
"""Characters of a statement that is."""
_READS: Final = re.compile(r"\s*SELECT\b", re.IGNORECASE)
_VALUES: Final = re.compile(r"\s*(?:INSERT|REPLACE)\b(?!.*\bSELECT\b).*\bVALUES\b", re.IGNORECASE | re.DOTALL)


class ShortStatements:
    """What is known of a connection's statements, by their text."""

    def __init__(self) -> None:
        self._to_prove: dict[str, int] = {}
        self._since: float | None = None

    def __contains__(self, statement: str) -> bool:
        return self._to_prove.get(statement, _PROOF) <= 0

    def took_in_thread(self, statement: str, seconds: float) -> None:
        """One more execution in the thread, in processor time: there the clock on the wall also shows other work."""
        known = self._to_prove.pop(statement, None)
        if known is None and not _is_candidate(statement):
            return
        left = _PROOF if known is None else known
        while len(self._to_prove) >= _KEPT:
            del self._to_prove[next(iter(self._to_prove))]
        self._to_prove[statement] = max(0, left - 1) if seconds < _SHORT else max(left, _PROOF)

    def was_long(self, statement: str) -> None:
        """One execution at once held up the loop."""
        self._to_prove[statement] = _PENANCE

    def loop_is_due(self) -> bool:
        """Whether the loop has to have a turn before the next one. To be asked before each."""
        now = perf_counter()
        if self._since is None:
            self._since = now
            asyncio.get_running_loop().call_soon(self._had_a_turn)
        return now - self._since > _AT_A_STRETCH

    def _had_a_turn(self) -> None:
        self._since = None


def _is_candidate(statement: str) -> bool:
    fits = len(statement) <= _LONGEST
    return fits and (can_be_given_up(statement) or _VALUES.match(statement) is not None)


def can_be_given_up(statement: str) -> bool:
    """Whether nothing is lost when it is broken off, and executed once more elsewhere: it only reads."""
    return _READS.match(statement) is not None
