"""Subjects on which nobody answers: their rows are passed over, so that no others wait for an answer with them. No I/O.

A stream without a leader is silent, and waiting for it takes a whole time-out, however many others could be served.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_PAUSE: Final = 2.0
"""Seconds between two rows that are sent to find out whether somebody answers by now."""
_MOST: Final = 1_000
"""Subjects remembered; the one that was heard of least lately goes."""
_AT_ONCE: Final = 16


class Unheard:
    """What one relay has learned; empty while everybody answers.

    Args:
        clock: the event loop's.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._asked: dict[str, float] = {}

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self._asked)

    @property
    def subjects(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(self._asked)

    def note(self, subject: str) -> None:
        """Nobody answered there."""
        self._asked.pop(subject, None)
        self._asked[subject] = self._clock()
        if len(self._asked) > _MOST:
            del self._asked[next(iter(self._asked))]

    def forget(self, subjects: Iterable[str]) -> None:
        """Somebody answered there, or nothing is left to ask with."""
        for subject in subjects:
            self._asked.pop(subject, None)

    def to_ask(self) -> tuple[str, ...]:
        """Some where it is time to find out."""
        before = self._clock() - _PAUSE
        return tuple(subject for subject, asked in self._asked.items() if asked <= before)[:_AT_ONCE]
