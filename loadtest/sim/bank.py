"""The model's store: accounts, and an inbox that remembers which settlements were applied. A commit is atomic."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable


class Settlement(NamedTuple):
    """Assets that change hands once.

    Attributes:
        kind: what happened: one battle ends in several of them, each with a subject of its own.
        room: whose settlements keep their order.
        key: the caller's idempotency key; one battle's kinds have the same.
        giver: the account that pays.
        taker: the account that is paid.
        amount: whole units, above 0.
        fails: how many attempts at it fail; beyond ``max_deliver`` it gives up until somebody cures it.
    """

    kind: str
    room: str
    key: str
    giver: str
    taker: str
    amount: int
    fails: int = 0

    @property
    def subject(self) -> str:
        """Where it is enqueued."""
        return f"{self.kind}.{self.room}"


class Applied(NamedTuple):
    """One line of the store's log."""

    settlement: Settlement
    sequence: int
    worker: str


class Unavailable(Exception):
    """The store did not answer: committed or not is unknown to the caller."""


class Bank:
    """Accounts, an inbox and a log, changed together or not at all.

    Attributes:
        balances: account to units; what is paid in comes from another account, so all together are 0.
        log: what was applied, in the order of the commits.
        absorbed: how many repeats the inbox stopped.
    """

    def __init__(self) -> None:
        self.balances: Counter[str] = Counter()
        self.log: list[Applied] = []
        self.absorbed = 0
        self._inbox: set[tuple[str, str]] = set()

    def knows(self, settlement: Settlement) -> bool:
        """Whether the inbox has it."""
        return (settlement.kind, settlement.key) in self._inbox

    def commit(self, settlements: Iterable[Applied], *, trusting: bool = False) -> list[bool]:
        """Apply each that the inbox does not know, in one transaction; which were.

        ``trusting`` writes without looking: what somebody does who looked a while ago and believes to be alone.
        """
        done = []
        for applied in settlements:
            settlement = applied.settlement
            new = trusting or not self.knows(settlement)
            done.append(new)
            if not new:
                self.absorbed += 1
                continue
            self._inbox.add((settlement.kind, settlement.key))
            self.balances[settlement.giver] -= settlement.amount
            self.balances[settlement.taker] += settlement.amount
            self.log.append(applied)
        return done
