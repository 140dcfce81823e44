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
        record: what makes a record of an entry; its errors are that entry's alone.
        backend: where to.
        window: records in flight at most.
        timeout: seconds for everything.
    """

    def __init__(self, record: Callable[[Entry], Record], backend: StreamBackend, window: int, timeout: float) -> None:
        self._record = record
        self._backend = backend
        self._window = window
        self._refill = max(1, window // _REFILL)
        self._clock = asyncio.get_running_loop().time
        self._deadline = self._clock() + timeout
        self._records: deque[Record | None] = deque()
        self._answers: deque[asyncio.Future[Receipt]] = deque()
        self._receipts: list[Receipt | None] = []
        self._errors: dict[int, BrokerError] = {}

    async def take(self, entries: Iterable[Entry]) -> None:
        """Send each entry as soon as the window has room; returns when it is known what became of all of them."""
        remaining = iter(entries)
        while self._send(remaining):
            if len(self._answers) < self._window:
                await asyncio.sleep(0)
            else:
                await self._land(self._refill)
            while self._backend.congested:
                await self._backend.writable()
        while self._answers:
            await self._land(1)

    def receipts(self) -> list[Receipt]:
        """One for each entry, in the order given.

        Raises:
            EnqueueManyError: there is not one for each.
        """
        if self._errors:
            stored = {index: receipt for index, receipt in enumerate(self._receipts) if receipt is not None}
            raise EnqueueManyError(stored, self._errors)
        return [receipt for receipt in self._receipts if receipt is not None]

    def abandon(self) -> None:
        """Forget what is in flight (the caller was cancelled or gave up)."""
        for answer in self._answers:
            answer.cancel()
        self._answers.clear()
        self._records.clear()

    def _send(self, entries: Iterable[Entry]) -> bool:
        """Send until the window is full or the burst is over; ``False`` when there are no more entries."""
        record, append, check_open = self._record, self._backend.append, self._backend.board.check_open
        records, answers = self._records.append, self._answers.append
        attempt = max(0.001, min(ATTEMPT, self._deadline - self._clock()))
        room = min(self._window - len(self._answers), _BURST)
        for entry in entries:
            try:
                if not isinstance(entry, Entry):
                    raise InvalidOption(f"{entry!r} is not an Entry", option="entries")
                made = record(entry)
                check_open()
                answers(append(made, timeout=attempt))
                records(made)
            except BrokerError as exc:
                answers(_refused(exc))
                records(None)
            room -= 1
            if not room:
                return True
        return False

    async def _land(self, count: int) -> None:
        """Wait for the ``count`` oldest in flight, then take every answer that is there."""
        answers, records, receipts, stats = self._answers, self._records, self._receipts, self._backend.stats
        await _done(answers[min(count, len(answers)) - 1])
        while answers and answers[0].done():
            answer, record = answers.popleft(), records.popleft()
            try:
                receipt = answer.result()
            except BrokerError as exc:
                await self._again(record, answer, exc)
                continue
            receipts.append(receipt)
            stats.enqueued += 1
            if receipt.duplicate:
                stats.duplicates += 1

    async def _again(self, record: Record | None, answer: asyncio.Future[Receipt], error: BrokerError) -> None:
        """Whatever went wrong, the patient way decides: it retries the same id or finds the right error."""
        index = len(self._receipts)
        self._receipts.append(None)
        if record is None:
            self._errors[index] = error
            return
        try:
            self._receipts[index] = await Storing(self._backend, record, self._deadline).receipt(answer)
        except BrokerError as exc:
            self._errors[index] = exc


def _refused(error: BrokerError) -> asyncio.Future[Receipt]:
    """An answer that is there already."""
    answer: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
    answer.set_exception(error)
    return answer


async def _done(future: asyncio.Future[Receipt]) -> None:
    """Wait until it is done, however it ends; being cancelled does not cancel it."""
    if not future.done():
        await asyncio.wait([future])
