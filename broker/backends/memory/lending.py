"""How a consumer lends messages: a state machine without I/O and without a clock of its own.

A message is *new* until lent, then *on loan* until settled. A loan whose time is over, or that is given back, is lent
again before anything new. Every loan, also one that waits to be lent again, takes one of ``max_ack_pending`` places.
"""

from __future__ import annotations

import heapq
from abc import abstractmethod
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

_SLACK: Final = 64


class Shelf(Protocol):
    """The stored messages as this consumer sees them: only those it wants."""

    @abstractmethod
    def next_from(self, sequence: int) -> int | None:
        """The first wanted sequence that is not below ``sequence``."""

    @abstractmethod
    def __contains__(self, sequence: object) -> bool:
        """Whether it is still stored."""


class Lent(NamedTuple):
    """A message handed out.

    Attributes:
        sequence: in the stream.
        attempt: for the how-manieth time.
        pending: how many new ones wait behind it.
        number: how many messages the consumer has handed out, this one and repeats included.
    """

    sequence: int
    attempt: int
    pending: int
    number: int


class Start(NamedTuple):
    """Where a consumer begins.

    Attributes:
        sequence: the first stream sequence it looks at, after those picked.
        picked: single sequences to hand out before.
        pending: how many wanted messages that is at the start.
    """

    sequence: int
    picked: Sequence[int] = ()
    pending: int = 0


@dataclass(slots=True)
class _Loan:
    attempt: int
    due: float
    queued: bool = False


class Lending:
    """One consumer's position, loans and queue of messages to be lent again.

    Args:
        shelf: what there is to lend.
        start: where to begin.
        max_ack_pending: loans at most, while ``acks``.
        ack_wait: seconds a loan lasts.
        acks: ``False`` settles each message by lending it.
    """

    def __init__(self, shelf: Shelf, start: Start, *, max_ack_pending: int, ack_wait: float, acks: bool) -> None:
        self.max_ack_pending = max_ack_pending
        self.ack_wait = ack_wait
        self.acks = acks
        self.pending = start.pending
        self._shelf = shelf
        self._cursor = start.sequence
        self._picked = deque(start.picked)
        self._delivered = (self._picked[0] if self._picked else self._cursor) - 1
        self._loans: dict[int, _Loan] = {}
        self._again: deque[int] = deque()
        self._due: list[tuple[float, int]] = []
        self._redelivered = 0
        self._number = 0

    @property
    def ack_pending(self) -> int:
        """Loans not settled."""
        return len(self._loans)

    @property
    def redelivered(self) -> int:
        """Loans handed out more than once."""
        return self._redelivered

    @property
    def delivered(self) -> int:
        """The highest sequence handed out; before the first, the one before the start."""
        return self._delivered

    @property
    def ack_floor(self) -> int:
        """Every sequence up to here is settled."""
        return min(self._loans) - 1 if self._loans else self._delivered

    @property
    def next_due(self) -> float | None:
        """When a loan may be over next; ``None`` when none runs."""
        while self._due:
            loan = self._loans.get(self._due[0][1])
            if loan is not None and not loan.queued:
                return self._due[0][0]
            heapq.heappop(self._due)
        return None

    def offered(self) -> None:
        """A wanted message was stored."""
        self.pending += 1

    def reshelve(self, shelf: Shelf, pending: int) -> None:
        """The consumer wants other messages now; so many of them are ahead of its cursor."""
        self._shelf = shelf
        self._picked.clear()
        self.pending = pending

    def restart(self, sequence: int, pending: int) -> None:
        """Begin anew at a sequence, with so many wanted messages ahead; every loan is forgotten."""
        self._cursor, self._delivered, self.pending = sequence, sequence - 1, pending
        self._redelivered = 0
        for each in (self._picked, self._again, self._loans, self._due):
            each.clear()

    @property
    def cursor(self) -> int:
        """The first sequence not looked at."""
        return self._cursor

    @property
    def upcoming(self) -> tuple[int | None, bool]:
        """The sequence that would be lent next, if there is a place for it, and whether it was lent before."""
        for sequence in self._again:
            loan = self._loans.get(sequence)
            if loan is not None and loan.queued:
                return sequence, True
        return (self._picked[0] if self._picked else self._shelf.next_from(self._cursor)), False

    def lend(self, now: float) -> Lent | None:
        """The next message, or ``None`` when there is none or no place for one."""
        again = self._lend_again(now)
        if again is not None:
            return again
        if not self.pending or (self.acks and len(self._loans) >= self.max_ack_pending):
            return None
        sequence = self._take_new()
        if sequence is None:
            return None
        self.pending -= 1
        self._delivered = max(self._delivered, sequence)
        if self.acks:
            self._loans[sequence] = _Loan(1, now + self.ack_wait)
            self._expect(now + self.ack_wait, sequence)
        return self._lent(sequence, 1)

    def settle(self, sequence: int) -> bool:
        """Never lend it again. Whether it was on loan: settling twice, or by an earlier attempt, is fine."""
        loan = self._loans.pop(sequence, None)
        if loan is None:
            return False
        self._redelivered -= loan.attempt > 1
        return True

    def give_back(self, sequence: int, now: float, delay: float = 0) -> bool:
        """Lend it again after ``delay`` seconds; it keeps its place meanwhile. Whether it was on loan."""
        loan = self._loans.get(sequence)
        if loan is None:
            return False
        if delay > 0:
            loan.due = now + delay
            self._expect(loan.due, sequence)
        else:
            self._queue(sequence, loan)
        return True

    def take_back(self, sequence: int) -> None:
        """It was lent without acks and nobody has seen it: lend it again."""
        if sequence in self._shelf and sequence not in self._loans:
            self._loans[sequence] = loan = _Loan(0, 0)
            self._queue(sequence, loan)

    def extend(self, sequence: int, now: float) -> bool:
        """Its time starts anew. Whether it was on loan."""
        loan = self._loans.get(sequence)
        if loan is None:
            return False
        sooner = now + self.ack_wait < loan.due
        loan.due = now + self.ack_wait
        if sooner:
            self._expect(loan.due, sequence)
        return True

    def expire(self, now: float) -> bool:
        """Queue every loan whose time is over, lowest sequence first. Whether there was one."""
        over: list[int] = []
        while self._due and self._due[0][0] <= now:
            sequence = heapq.heappop(self._due)[1]
            loan = self._loans.get(sequence)
            if loan is None or loan.queued:
                continue
            if loan.due > now:
                self._expect(loan.due, sequence)
            else:
                loan.queued = True
                over.append(sequence)
        self._again.extend(sorted(over))
        return bool(over)

    def withdrawn(self, sequence: int) -> None:
        """A wanted message is not stored any more."""
        if sequence in self._picked:
            self._picked.remove(sequence)
            self.pending -= 1
        elif sequence >= self._cursor:
            self.pending -= 1
        else:
            self.settle(sequence)

    def needs(self, sequence: int) -> bool:
        """Whether a wanted message is not settled yet."""
        return sequence >= self._cursor or sequence in self._loans or sequence in self._picked

    def _take_new(self) -> int | None:
        if self._picked:
            return self._picked.popleft()
        sequence = self._shelf.next_from(self._cursor)
        if sequence is not None:
            self._cursor = sequence + 1
        return sequence

    def _lend_again(self, now: float) -> Lent | None:
        while self._again:
            sequence = self._again.popleft()
            loan = self._loans.get(sequence)
            if loan is None or not loan.queued:
                continue
            loan.queued = False
            loan.attempt += 1
            self._redelivered += loan.attempt == 2  # noqa: PLR2004 - the second time makes it a redelivered one
            if self.acks:
                loan.due = now + self.ack_wait
                self._expect(loan.due, sequence)
            else:
                del self._loans[sequence]
            return self._lent(sequence, loan.attempt)
        return None

    def _lent(self, sequence: int, attempt: int) -> Lent:
        self._number += 1
        return Lent(sequence, attempt, self.pending, self._number)

    def _queue(self, sequence: int, loan: _Loan) -> None:
        if not loan.queued:
            loan.queued = True
            self._again.append(sequence)

    def _expect(self, due: float, sequence: int) -> None:
        heapq.heappush(self._due, (due, sequence))
        if len(self._due) > 2 * len(self._loans) + _SLACK:
            self._due = [(loan.due, each) for each, loan in self._loans.items() if not loan.queued]
            heapq.heapify(self._due)
