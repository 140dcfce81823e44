"""What one stream stores: messages by sequence and by subject, and when they expire. No rules, no I/O."""

from __future__ import annotations

import heapq
from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from broker.contracts.subjects import matches

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator

    from broker.contracts.headers import Headers

_SLACK: Final = 64


@dataclass(slots=True)
class Stored:
    """One message of the log.

    Attributes:
        size: bytes it counts for.
        stored_at: when, by the hub's clock.
        expires_at: when its own time to live is over; ``None`` when it has none.
    """

    sequence: int
    subject: str
    data: bytes
    headers: Headers | None
    message_id: str
    size: int
    stored_at: float
    timestamp_ns: int
    expires_at: float | None


class Sequences:
    """Ascending sequences that lose members anywhere: those that are not ``alive`` any more are passed over.

    Dead ones are swept out once they are the majority, so that every operation stays cheap on average.
    """

    __slots__ = ("_alive", "_dead", "_head", "_items")

    def __init__(self, alive: Container[int]) -> None:
        self._alive = alive
        self._items: list[int] = []
        self._dead = 0
        self._head = 0

    def __len__(self) -> int:
        return len(self._items) - self._dead

    def add(self, sequence: int) -> None:
        """Append the newest."""
        self._items.append(sequence)

    def forget(self) -> None:
        """One member has died."""
        self._dead += 1
        if self._dead > _SLACK and self._dead * 2 > len(self._items):
            self._items = [each for each in self._items if each in self._alive]
            self._dead = 0
            self._head = 0

    def since(self, sequence: int) -> Iterator[int]:
        """Those alive from ``sequence`` on. Nothing may be added or lost while iterating."""
        items, alive = self._items, self._alive
        for index in range(bisect_left(items, sequence, self._head), len(items)):
            if items[index] in alive:
                yield items[index]

    def first(self) -> int | None:
        """The oldest alive."""
        items, alive = self._items, self._alive
        while self._head < len(items) and items[self._head] not in alive:
            self._head += 1
        return items[self._head] if self._head < len(items) else None

    def last(self) -> int | None:
        """The newest alive."""
        while self._items and self._items[-1] not in self._alive:
            self._items.pop()
            self._dead -= 1
        self._head = min(self._head, len(self._items))
        return self._items[-1] if self._items else None


class StreamLog:
    """An append log whose members can be removed."""

    def __init__(self) -> None:
        self.bytes = 0
        self.last_sequence = 0
        self.last_message_id = ""
        self._messages: dict[int, Stored] = {}
        self._order = Sequences(self._messages)
        self._subjects: dict[str, Sequences] = {}
        self._mortal: list[tuple[float, int]] = []

    def __len__(self) -> int:
        return len(self._messages)

    def __contains__(self, sequence: object) -> bool:
        return sequence in self._messages

    @property
    def first_sequence(self) -> int:
        """Of the oldest message; ``last_sequence + 1`` when there is none."""
        first = self._order.first()
        return self.last_sequence + 1 if first is None else first

    @property
    def subjects(self) -> int:
        """How many different subjects are stored."""
        return len(self._subjects)

    def add(self, message: Stored) -> None:
        """Append the message that bears the next sequence."""
        sequence = message.sequence
        self._messages[sequence] = message
        self._order.add(sequence)
        subject = self._subjects.get(message.subject)
        if subject is None:
            subject = self._subjects[message.subject] = Sequences(self._messages)
        subject.add(sequence)
        self.bytes += message.size
        self.last_sequence = sequence
        self.last_message_id = message.message_id
        if message.expires_at is not None:
            heapq.heappush(self._mortal, (message.expires_at, sequence))

    def remove(self, sequence: int) -> Stored | None:
        """The message, gone from the log; ``None`` when there is none."""
        message = self._messages.pop(sequence, None)
        if message is None:
            return None
        self.bytes -= message.size
        self._order.forget()
        subject = self._subjects[message.subject]
        subject.forget()
        if not len(subject):
            del self._subjects[message.subject]
        return message

    def get(self, sequence: int) -> Stored | None:
        """The message with that sequence."""
        return self._messages.get(sequence)

    def since(self, sequence: int = 0) -> Iterator[Stored]:
        """Messages from ``sequence`` on, oldest first. The log must not change while iterating."""
        messages = self._messages
        return (messages[each] for each in self._order.since(sequence))

    def next_match(self, sequence: int, wanted: Callable[[str], bool]) -> Stored | None:
        """The first message from ``sequence`` on whose subject is wanted."""
        for message in self.since(sequence):
            if wanted(message.subject):
                return message
        return None

    def count_of(self, subject: str) -> int:
        """How many messages the subject has."""
        sequences = self._subjects.get(subject)
        return len(sequences) if sequences is not None else 0

    def first_of(self, subject: str) -> int | None:
        """The oldest sequence of the subject."""
        sequences = self._subjects.get(subject)
        return sequences.first() if sequences is not None else None

    def sequences_of(self, subject: str) -> list[int]:
        """Every sequence of the subject, ascending."""
        sequences = self._subjects.get(subject)
        return list(sequences.since(0)) if sequences is not None else []

    def last_of(self, pattern: str) -> int:
        """The newest sequence of the pattern, 0 when there is none."""
        if pattern in self._subjects:
            return self._subjects[pattern].last() or 0
        if "*" not in pattern and ">" not in pattern:
            return 0
        return max(self.last_per_subject(lambda subject: matches(pattern, subject)), default=0)

    def last_per_subject(self, wanted: Callable[[str], bool]) -> list[int]:
        """The newest sequence of each wanted subject, ascending."""
        return sorted(sequences.last() or 0 for subject, sequences in self._subjects.items() if wanted(subject))

    def expired(self, now: float, max_age: float | None) -> list[int]:
        """Sequences whose time is over."""
        over: list[int] = []
        while self._mortal and (self._mortal[0][0] <= now or self._mortal[0][1] not in self._messages):
            sequence = heapq.heappop(self._mortal)[1]
            if sequence in self._messages:
                over.append(sequence)
        if max_age is not None:
            for message in self.since(self.first_sequence):
                if message.stored_at + max_age > now:
                    break
                over.append(message.sequence)
        return over

    def next_expiry(self, max_age: float | None) -> float | None:
        """When the next message's time is over, or a moment before; ``None`` when all are there to stay."""
        times: list[float] = [self._mortal[0][0]] if self._mortal else []
        if max_age is not None and self._messages:
            times.append(self._messages[self.first_sequence].stored_at + max_age)
        return min(times, default=None)
