"""A rate limit that decides how much is asked for, so that nobody holds messages only to wait. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from broker.contracts.envelopes import Delivery

BURST: Final = 0.1
"""Seconds of the rate that may come at once after a quiet while; one message always may."""
_STEP: Final = 0.01
"""Seconds of the rate that are worth asking for: not every message on its own."""
_MEMORY: Final = 0.8
"""How much of the average size earlier messages keep."""


class Bucket:
    """Fills steadily up to its capacity; taking more than there is makes a debt that is waited out."""

    def __init__(self, rate: float, now: float) -> None:
        self.rate = rate
        self.capacity = max(1.0, rate * BURST)
        self._tokens = self.capacity
        self._at = now

    def tokens(self, now: float) -> float:
        """How many there are."""
        self._tokens = min(self.capacity, self._tokens + (now - self._at) * self.rate)
        self._at = now
        return self._tokens

    def take(self, count: float) -> None:
        """So many are used."""
        self._tokens -= count

    def until(self, wanted: float, now: float) -> float:
        """Seconds until so many are there, or as many as there ever are."""
        return max(0.0, (min(wanted, self.capacity) - self.tokens(now)) / self.rate)


class Pace:
    """Messages per second, bytes per second, or both."""

    def __init__(self, rate: float | None, byte_rate: float | None, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._messages = Bucket(rate, clock()) if rate is not None else None
        self._bytes = Bucket(byte_rate, clock()) if byte_rate is not None else None
        self._size: float | None = None

    def allowance(self, room: int) -> int:
        """How many messages may be asked for now, of those there is room for.

        How large they are is known afterwards: bytes beyond the rate are waited out before the next are asked for.
        """
        now = self._clock()
        if self._messages is not None:
            room = min(room, int(self._messages.tokens(now)))
        if self._bytes is not None:
            tokens = self._bytes.tokens(now)
            worth = 1 if self._size is None else max(1, int(tokens / self._size))
            room = min(room, worth) if tokens > 0 else 0
        return room

    def delay(self) -> float:
        """Seconds until there is an allowance again that is worth a request."""
        now, waits = self._clock(), [0.001]
        if self._messages is not None:
            waits.append(self._messages.until(max(1.0, self._messages.rate * _STEP), now))
        if self._bytes is not None:
            waits.append(self._bytes.until(max(self._size or 1.0, self._bytes.rate * _STEP), now))
        return max(waits)

    def took(self, batch: Sequence[Delivery]) -> None:
        """They arrived."""
        now = self._clock()
        if self._messages is not None:
            self._messages.tokens(now)
            self._messages.take(len(batch))
        if self._bytes is not None:
            size = sum(len(each.data) for each in batch)
            mean = max(1.0, size / len(batch))
            self._size = mean if self._size is None else self._size * _MEMORY + mean * (1 - _MEMORY)
            self._bytes.tokens(now)
            self._bytes.take(size)
