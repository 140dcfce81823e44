"""Which messages of a lane wait for their turn, and whose turn it is. No I/O.

A message's *order* is its sequence when it was first stored; all its attempts have the same. Once a message of a key
waits (for its backoff, or in the dead letters), every later one of that key waits behind it. What waits is tried again
through the lane itself, the first of each key only, so that nothing but the lane ever hands out work.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from broker.contracts.lanes import lane_of_token

if TYPE_CHECKING:
    from collections.abc import Iterable


class Verdict(Enum):
    """What to do with a message that the lane hands out."""

    HANDLE = auto()
    """It is its turn."""
    PARK = auto()
    """An earlier one of its key waits: put it behind."""
    DROP = auto()
    """It is parked already, or done with: this is a second copy."""


@dataclass(slots=True)
class Waiting:
    """One message that waits.

    Attributes:
        key: the token of its ordering key.
        order: its sequence when it was first stored.
        sequence: of the record that keeps it, among the parked ones.
        attempts: how often it was handed out so far.
        due: when it may be tried again, seconds since the epoch.
        letter: its dead letter, while somebody has to decide about it.
        sent: whether its next attempt is on its way through the lane.
        made: when the stream was made that it belongs to; one of a former stream of that name does not wait any more.
    """

    key: str
    order: int
    sequence: int
    attempts: int = 0
    due: float = 0.0
    letter: int | None = None
    sent: bool = False
    made: int = 0

    def lane(self, lanes: int) -> int:
        """Which of so many lanes it belongs to."""
        return lane_of_token(self.key, lanes)


class Parking:
    """What waits in one lane, key by key in order."""

    def __init__(self) -> None:
        self._keys: dict[str, dict[int, Waiting]] = {}

    @property
    def keys(self) -> frozenset[str]:
        """The keys that have something waiting."""
        return frozenset(self._keys)

    def replace(self, waiting: Iterable[Waiting]) -> None:
        """This is what waits; whatever was known before may be out of date."""
        self._keys.clear()
        for each in waiting:
            self.park(each)

    def park(self, waiting: Waiting) -> None:
        """One more waits, or one that waits already does so anew."""
        self._keys.setdefault(waiting.key, {})[waiting.order] = waiting

    def release(self, key: str, order: int) -> Waiting | None:
        """It waits no longer; what it was."""
        of_key = self._keys.get(key, {})
        gone = of_key.pop(order, None)
        if not of_key:
            self._keys.pop(key, None)
        return gone

    def find(self, key: str, order: int) -> Waiting | None:
        """The message of that key and order, if it waits."""
        return self._keys.get(key, {}).get(order)

    def of_turn(self, key: str, turn: int) -> Waiting | None:
        """The message of that key that is kept in that record."""
        return next((each for each in self._keys.get(key, {}).values() if each.sequence == turn), None)

    def judge(self, key: str, order: int, turn: int | None) -> Verdict:
        """What becomes of a message that the lane hands out.

        ``turn`` is the parked record that a next attempt was sent for; ``None`` for a message on its first way.
        """
        of_key = self._keys.get(key)
        if not of_key:
            return Verdict.HANDLE if turn is None else Verdict.DROP
        first = min(of_key)
        waits = of_key.get(order)
        if waits is not None:
            its_turn = turn == waits.sequence and order == first and waits.letter is None
            return Verdict.HANDLE if its_turn else Verdict.DROP
        if turn is not None:
            return Verdict.DROP
        return Verdict.PARK if first < order else Verdict.HANDLE

    def heads(self) -> list[Waiting]:
        """The first of each key."""
        return [of_key[min(of_key)] for of_key in self._keys.values()]

    def due(self, now: float) -> list[Waiting]:
        """Those whose turn it is."""
        return [each for each in self.heads() if each.letter is None and not each.sent and each.due <= now]

    def next_due(self) -> float | None:
        """When the next one's turn comes; ``None`` while nobody waits for a time."""
        return min((each.due for each in self.heads() if each.letter is None and not each.sent), default=None)

    def dead(self) -> list[Waiting]:
        """Those that somebody has to decide about."""
        return [each for each in self.heads() if each.letter is not None]
