"""Broken on purpose: what a checker that is worth its name must notice."""

from __future__ import annotations

import time
from enum import StrEnum
from typing import TYPE_CHECKING

from loadtest.chaos.books import Delivered, InboxBooks, Outcome

if TYPE_CHECKING:
    from pathlib import Path

    from loadtest.chaos.settlements import Settlement

_VICTIM = 20
"""The settlement of a worker that the ledger's mutations hit: one of them has to be enough."""


class Mutation(StrEnum):
    """What is broken."""

    NAIVE = "naive"
    """No inbox: whatever is delivered takes effect."""
    ACKFIRST = "ackfirst"
    """Acks before it commits."""
    DROP_ROW = "drop-row"
    """One posting is missing."""
    DUP_ROW = "dup-row"
    """One settlement is booked twice."""
    FLIP_AMOUNT = "flip-amount"
    """One posting has the wrong sign."""


class NaiveBooks(InboxBooks):
    """Writes the inbox and does not ask it."""

    def _claim(self, delivered: Delivered) -> Outcome:
        settlement, digest, sequence = delivered
        self._db.execute(
            "INSERT INTO inbox VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (settlement.key, digest, sequence, self._worker, time.time()),
        )
        return Outcome.APPLIED


class TamperedBooks(InboxBooks):
    """Books one settlement wrongly and says nothing."""

    def __init__(self, path: Path, *, worker: str, mutation: Mutation) -> None:
        super().__init__(path, worker=worker)
        self._mutation = mutation
        self._booked = 0

    def _legs(self, settlement: Settlement) -> list[tuple[str, str, int]]:
        legs = super()._legs(settlement)
        self._booked += 1
        if self._booked != _VICTIM:
            return legs
        if self._mutation is Mutation.DROP_ROW:
            return legs[:1]
        if self._mutation is Mutation.DUP_ROW:
            return legs * 2
        return [legs[0], (settlement.key, legs[1][1], -legs[1][2])]


def books(path: Path, *, worker: str, mutation: Mutation | None) -> InboxBooks:
    """The books a worker writes, broken as told."""
    if mutation is Mutation.NAIVE:
        return NaiveBooks(path, worker=worker)
    if mutation in {Mutation.DROP_ROW, Mutation.DUP_ROW, Mutation.FLIP_AMOUNT}:
        return TamperedBooks(path, worker=worker, mutation=Mutation(mutation))
    return InboxBooks(path, worker=worker)
