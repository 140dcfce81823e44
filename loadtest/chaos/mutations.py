"""Broken on purpose: what a checker that is worth its name must notice."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

from loadtest.chaos import books

if TYPE_CHECKING:
    from loadtest.chaos.settlements import Settlement

_VICTIM: Final = 20
"""The settlement of a worker that the ledger's mutations hit: one of them has to be enough."""


class Mutation(StrEnum):
    """What is broken."""

    NAIVE = "naive"
    """No inbox: whatever is delivered takes effect."""
    ACKFIRST = "ackfirst"
    """No inbox: acks before it commits."""
    DROP_ROW = "drop-row"
    """One posting is missing."""
    DUP_ROW = "dup-row"
    """One settlement is booked twice."""
    FLIP_AMOUNT = "flip-amount"
    """One posting has the wrong sign."""


BARE: Final = frozenset({Mutation.NAIVE, Mutation.ACKFIRST})
"""Those that go without the inbox."""


class Tampering:
    """The legs of settlements, one of them wrong, and nothing said about it."""

    def __init__(self, mutation: Mutation | None) -> None:
        self._mutation = mutation
        self._booked = 0

    def legs(self, settlement: Settlement) -> list[tuple[str, str, int]]:
        """See ``books.legs``."""
        legs = books.legs(settlement)
        self._booked += 1
        if self._booked != _VICTIM:
            return legs
        if self._mutation is Mutation.DROP_ROW:
            return legs[:1]
        if self._mutation is Mutation.DUP_ROW:
            return legs * 2
        if self._mutation is Mutation.FLIP_AMOUNT:
            return [legs[0], (settlement.key, legs[1][1], -legs[1][2])]
        return legs
