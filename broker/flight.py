"""Many records on their way at once: a sliding window of appends, oldest first."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

from broker.contracts.envelopes import Entry, Receipt, Record
from broker.contracts.errors import BrokerError, EnqueueManyError, InvalidOption
from broker.storing import ATTEMPT, Storing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from broker.contracts.backend import StreamBackend

_BURST: Final = 256
"""Records sent before the event loop gets its turn, when the window never makes us wait."""
_REFILL: Final = 8
"""A full window waits until one part in so many of it is free: fewer wake-ups, and frames go out together."""


class Flight:
    """The state of one ``enqueue_many``: what is in flight, and what came of the rest.

    Args:
        record: what makes a record and its key of an entry; its errors are that entry's alone.
        backend: where to.
        window: records in flight at most.
        timeout: seconds for everything.
    """

    def __init__(
        self, record: Callable[[Entry], tuple[Record, str]], backend: StreamBackend, window: int, timeout: float
    ) -> None:
        self._record = record
        self._backend = backend
        self._window = window
        self._refill = max(1, window // _REFILL)
        self._clock = asyncio.get_running_loop().time
        self._deadline = self._clock() + timeout
        self._flying: deque[tuple[int, Record, str, asyncio.Future[Receipt]]] = deque()
        self._receipts: list[Receipt | None] = []
        self._errors: dict[int, BrokerError] = {}

    async def take(self, entries: Iterable[Entry]) -> None:
        """Send each entry as soon as the window has room; returns when it is known what became of all of them."""
        remaining = iter(entries)
        while self._send(remaining):
            if len(self._flying) < self._window:
                await asyncio.sleep(0)
            else:
                await self._land(self._refill)
            while self._backend.congested:
                await self._backend.writable()
        while self._flying:
            await self._land(1)

    def receipts(self) -> list[Receipt]:
        """One for each entry, in the order given.

        Raises:
            EnqueueManyError: there is not one for each.
        """
        stored = {index: receipt for index, receipt in enumerate(self._receipts) if receipt is not None}
        if self._errors:
            raise EnqueueManyError(stored, self._errors)
        return list(stored.values())

    def abandon(self) -> None:
        """Forget what is in flight (the caller was cancelled or gave up)."""
        for _, _, _, answer in self._flying:
            answer.cancel()
        self._flying.clear()

    def _send(self, entries: Iterable[Entry]) -> bool:
        """Send until the window is full or the burst is over; ``False`` when there are no more entries."""
        flying, receipts = self._flying, self._receipts
        record, append, check_open = self._record, self._backend.append, self._backend.board.check_open
        attempt = max(0.001, min(ATTEMPT, self._deadline - self._clock()))
        room = min(self._window - len(flying), _BURST)
        for entry in entries:
            index = len(receipts)
            receipts.append(None)
            try:
                if not isinstance(entry, Entry):
                    raise InvalidOption(f"entry {index} is {entry!r}, not an Entry", option="entries")
                made, key = record(entry)
                check_open()
                flying.append((index, made, key, append(made, timeout=attempt)))
            except BrokerError as exc:
                self._errors[index] = exc
            room -= 1
            if not room:
                return True
        return False

    async def _land(self, count: int) -> None:
        """Wait for the ``count`` oldest in flight, then take every answer that is there."""
        flying = self._flying
        await _done(flying[min(count, len(flying)) - 1][3])
        receipts, stats = self._receipts, self._backend.stats
        while flying and flying[0][3].done():
            index, record, key, answer = flying.popleft()
            try:
                receipt = answer.result()
            except BrokerError:
                await self._again(index, record, key, answer)
                continue
            receipts[index] = receipt
            stats.enqueued += 1
            if receipt.duplicate:
                stats.duplicates += 1

    async def _again(self, index: int, record: Record, key: str, answer: asyncio.Future[Receipt]) -> None:
        """Whatever went wrong, the patient way decides: it retries the same id or finds the right error."""
        try:
            self._receipts[index] = await Storing(self._backend, record, key, self._deadline).receipt(answer)
        except BrokerError as exc:
            self._errors[index] = exc


async def _done(future: asyncio.Future[Receipt]) -> None:
    """Wait until it is done, however it ends; being cancelled does not cancel it."""
    if not future.done():
        await asyncio.wait([future])
