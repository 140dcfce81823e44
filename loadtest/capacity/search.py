"""Which number of rooms to try next: doubled until one is not held, then halved in between. No I/O."""

from __future__ import annotations

from typing import Final

_CLOSE: Final = 0.06
"""The search ends when the gap between held and not held is at most this share of the held number."""


class Search:
    """Ask ``next``, try it, ``tell``; until ``next`` is ``None``.

    Attributes:
        held: the most rooms that were held; 0 when none was.
        refused: the fewest that were not; ``None`` while all were.
    """

    def __init__(self, first: int, most: int) -> None:
        self.held = 0
        self.refused: int | None = None
        self._first = min(first, most)
        self._most = most

    def next(self) -> int | None:
        """The number of rooms to try; ``None`` when the answer is known."""
        if self.refused is None:
            return None if self.held >= self._most else min(self._most, self.held * 2 or self._first)
        if self.refused - self.held <= max(1, int(self.held * _CLOSE)):
            return None
        return (self.held + self.refused) // 2

    def tell(self, rooms: int, *, held: bool) -> None:
        """What became of it."""
        if held:
            self.held = max(self.held, rooms)
        else:
            self.refused = rooms if self.refused is None else min(self.refused, rooms)
