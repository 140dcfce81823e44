"""What one connection has sent and the hub has not carried yet: bounded in bytes, emptied once per loop turn."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.contracts.envelopes import Receipt, Record
    from broker.contracts.headers import Headers
    from broker.contracts.status import Stats


class Parcel(NamedTuple):
    """A core message on its way."""

    subject: str
    data: bytes
    headers: Headers | None
    reply_to: str | None
    size: int


class Posting(NamedTuple):
    """A message on its way into a stream, and who waits for the receipt until when."""

    record: Record
    headers: Headers
    receipt: asyncio.Future[Receipt]
    timeout: float


class Batch(NamedTuple):
    """Messages on their way into one stream, all or nothing, and who waits for the receipts until when."""

    records: Sequence[Record]
    headers: Sequence[Headers]
    receipt: asyncio.Future[Sequence[Receipt]]
    timeout: float


class Outbox:
    """Holds at most ``limit`` bytes of core messages; the oldest make room and are counted. Postings are never dropped.

    Args:
        limit: bytes of core messages held at most.
        stats: where drops are counted.
    """

    def __init__(self, limit: int, stats: Stats) -> None:
        self._limit = limit
        self._stats = stats
        self._bytes = 0
        self._parcels: deque[Parcel] = deque()
        self._postings: deque[Posting | Batch] = deque()
        self._emptied: asyncio.Future[None] | None = None

    @property
    def congested(self) -> bool:
        """Whether it is more than half full."""
        return self._bytes > self._limit // 2

    def __bool__(self) -> bool:
        return bool(self._parcels or self._postings)

    def put(self, parcel: Parcel) -> None:
        """Take a core message, making room when there is none."""
        self._parcels.append(parcel)
        self._bytes += parcel.size
        while self._bytes > self._limit:
            self._bytes -= self._parcels.popleft().size
            self._stats.dropped_outbound += 1

    def post(self, posting: Posting | Batch) -> None:
        """Take a message, or a batch, for a stream."""
        self._postings.append(posting)

    def take(self) -> tuple[deque[Parcel], deque[Posting | Batch]]:
        """Everything that waits; what is sent from now on waits for the next turn."""
        taken = self._parcels, self._postings
        self._parcels, self._postings, self._bytes = deque(), deque(), 0
        return taken

    def announce_empty(self) -> None:
        """Wake whoever waits for ``emptied``."""
        if self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)
        self._emptied = None

    async def emptied(self) -> None:
        """Return once everything that waits now has been carried or thrown away."""
        if self:
            if self._emptied is None:
                self._emptied = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._emptied)

    def discard(self, error: Exception) -> None:
        """Throw everything away: core messages are counted, receipts fail."""
        parcels, postings = self.take()
        self._stats.dropped_outbound += len(parcels)
        for posting in postings:
            if not posting.receipt.done():
                posting.receipt.set_exception(error)
        self.announce_empty()
