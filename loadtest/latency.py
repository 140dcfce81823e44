"""One-way latency of an open loop: what is sent when, how late the sender was, and what the receiver saw.

A message is due on a grid fixed beforehand, whatever became of the one before it, and carries the time it was *due*:
a sender that falls behind shows in the latency instead of hiding it.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from loadtest.metronome import Metronome

HERTZ: Final = 30
"""Messages of one room per second."""
LAG_LIMIT_MS: Final = 2.0
"""A sender later than this at the 99th percentile makes the run void: it measured the sender."""
_STAMP: Final = 8
_SETTLING: Final = 0.1
"""Share of the messages, the first ones, that only warm up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Microseconds from when a message was due to when the receiver's code had it; ``lag_ms`` of the sender at p99."""

    p50: float
    p99: float
    p999: float
    worst: float
    lag_ms: float

    @classmethod
    def of(cls, nanoseconds: Sequence[int], lag_ms: float) -> Self:
        """Of all arrivals in order; the first tenth is left out."""
        counted = sorted(nanoseconds[int(len(nanoseconds) * _SETTLING) :])
        return cls(
            p50=percentile(counted, 0.5) / 1e3,
            p99=percentile(counted, 0.99) / 1e3,
            p999=percentile(counted, 0.999) / 1e3,
            worst=percentile(counted, 1.0) / 1e3,
            lag_ms=lag_ms,
        )

    def as_json(self) -> dict[str, Any]:
        """By name."""
        return asdict(self)


def percentile(ordered: Sequence[int], share: float) -> int:
    """The value below or at which that share lies; of nothing, zero."""
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0


def period_ns(rooms: int) -> int:
    """Between two messages: the rooms' ticks are spread evenly."""
    return 1_000_000_000 // (rooms * HERTZ)


def stamped(due_ns: int, size: int) -> bytes:
    """A body that says when it was due."""
    return due_ns.to_bytes(_STAMP, "little") + b"x" * (size - _STAMP)


def since_due(body: bytes) -> int:
    """Nanoseconds from when it was due to now."""
    return time.monotonic_ns() - int.from_bytes(body[:_STAMP], "little")


class Schedule:
    """When each message is due and how late the sender came to it.

    Attributes:
        lags: nanoseconds, one for each message sent.
    """

    def __init__(self, subject: str, *, rooms: int, count: int, size: int) -> None:
        self.lags: list[int] = []
        self._subjects = [f"{subject}.{room}" for room in range(rooms)]
        self._count = count
        self._size = size

    @property
    def lag_ms(self) -> float:
        """At the 99th percentile."""
        return percentile(sorted(self.lags[int(len(self.lags) * _SETTLING) :]), 0.99) / 1e6

    def plan(self, metronome: Metronome) -> Iterator[tuple[str, int]]:
        """Subject and due time of each message; the metronome starts."""
        period = period_ns(len(self._subjects))
        first = metronome.start(period)
        for index in range(self._count):
            yield self._subjects[index % len(self._subjects)], first + index * period

    def body(self, due_ns: int) -> bytes:
        """What is sent now instead of then; notes how late that is."""
        self.lags.append(time.monotonic_ns() - due_ns)
        return stamped(due_ns, self._size)

    async def due(self, metronome: Metronome) -> AsyncIterator[tuple[str, bytes]]:
        """Subject and body of each message when its time has come; those that are late come at once."""
        with metronome.heard() as beat:
            for subject, due in self.plan(metronome):
                while time.monotonic_ns() < due:
                    await beat()
                yield subject, self.body(due)
