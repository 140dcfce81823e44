"""Many records on their way at once: a sliding window of appends, oldest first."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from broker.contracts.envelopes import Entry, Receipt, Record
from broker.contracts.errors import (
    BrokerError,
    ConnectionLost,
    EnqueueManyError,
    EnqueueUnknown,
    InvalidOption,
    NoResponders,
    RequestTimeout,
)
from broker.keys import key_of
from broker.storing import ATTEMPT, Storing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from broker.contracts.backend import StreamBackend

_BURST: Final = 256
_BURST_BYTES: Final = 256 << 10
"""Records and bytes of body sent before we look up: at the clock, at congestion, and give the event loop its turn."""
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
        self._began = self._clock()
        self._deadline = self._began + timeout
        self._records: deque[Record | None] = deque()
        self._answers: deque[asyncio.Future[Receipt]] = deque()
        self._receipts: list[Receipt | None] = []
        self._errors: dict[int, BrokerError] = {}
        self._patient: set[asyncio.Task[None]] = set()
        self._resent: set[str] = set()
        self._lookups: dict[str, asyncio.Task[str | None]] = {}

    async def take(self, entries: Iterable[Entry]) -> None:
        """Send each entry as soon as the window has room; returns when it is known what became of all of them."""
        remaining = iter(entries)
        while self._send(remaining):
            if len(self._answers) + len(self._patient) >= self._window:
                await self._land(self._refill)
            else:
                await asyncio.sleep(0)
            await self._writable()
        while self._answers:
            await self._land(1)
        while self._patient:
            await asyncio.wait(self._patient)

    def receipts(self) -> list[Receipt]:
        """One for each entry, in the order given.

        Raises:
            EnqueueManyError: there is not one for each.
        """
        if self._errors:
            stored = {index: receipt for index, receipt in enumerate(self._receipts) if receipt is not None}
            raise EnqueueManyError(stored, self._errors)
        return [receipt for receipt in self._receipts if receipt is not None]

    async def abandon(self) -> None:
        """Forget what is in flight (the caller was cancelled or gave up)."""
        for answer in self._answers:
            if not answer.cancel():
                _heed(answer)
        self._answers.clear()
        self._records.clear()
        asking = {*self._patient, *self._lookups.values()}
        for task in asking:
            task.cancel()
        if asking:
            await asyncio.wait(asking)

    def _send(self, entries: Iterable[Entry]) -> bool:
        """Send until the window is full or the burst is over; ``False`` when there are no more entries."""
        record, append, check_open = self._record, self._backend.append, self._backend.board.check_open
        records, answers = self._records.append, self._answers.append
        left = self._deadline - self._clock()
        attempt = min(ATTEMPT, left)
        room = min(self._window - len(self._answers) - len(self._patient), _BURST)
        size = _BURST_BYTES
        for entry in entries:
            try:
                if not isinstance(entry, Entry):
                    raise InvalidOption(f"{entry!r} is not an Entry", option="entries")
                made = record(entry)
                check_open()
                if left <= 0:
                    raise _unsent(made)
                answers(append(made, timeout=attempt))
                records(made)
                size -= len(made.data)
            except BrokerError as exc:
                answers(_refused(exc))
                records(None)
            room -= 1
            if room <= 0 or size <= 0:
                return True
        return False

    async def _writable(self) -> None:
        """Wait until the transport takes more, at most until the deadline."""
        try:
            async with asyncio.timeout_at(self._deadline):
                while self._backend.congested:
                    await self._backend.writable()
        except (TimeoutError, BrokerError):
            return  # each entry is told why it was not sent

    async def _land(self, count: int) -> None:
        """Wait for the ``count`` oldest in flight, then take every answer that is there."""
        answers, records, receipts, stats = self._answers, self._records, self._receipts, self._backend.stats
        if not answers:
            await asyncio.wait(self._patient, return_when=asyncio.FIRST_COMPLETED)
            return
        with suppress(BrokerError):  # told in its turn, below
            await answers[min(count, len(answers)) - 1]
        while answers and answers[0].done():
            answer, record = answers.popleft(), records.popleft()
            try:
                receipt = answer.result()
            except BrokerError as exc:
                await self._fail(record, answer, exc)
                continue
            receipts.append(receipt)
            if self._resent and record is not None:
                self._resent.discard(record.message_id)
            stats.enqueued += 1
            if receipt.duplicate:
                stats.duplicates += 1

    async def _fail(self, record: Record | None, answer: asyncio.Future[Receipt], error: BrokerError) -> None:
        """The patient way decides: it retries the same id or finds the right error.

        What nobody answered to is asked for beside the others: its stream may be missing, and theirs not. After a
        break or a silence one goes ahead, and the others follow in their order when it has arrived.
        """
        index = len(self._receipts)
        self._receipts.append(None)
        if record is None:
            self._errors[index] = error
        elif isinstance(error, NoResponders):
            task = asyncio.get_running_loop().create_task(self._patiently(index, record, answer))
            self._patient.add(task)
            task.add_done_callback(self._patient.discard)
        else:
            await self._patiently(index, record, answer)
            if self._receipts[index] is not None:
                self._follow()

    def _follow(self) -> None:
        """Send again what broke or was silent with the one that has arrived now, as much as goes in one burst."""
        answers, left, size = list(self._answers), self._deadline - self._clock(), _BURST_BYTES
        for index, (record, answer) in enumerate(zip(self._records, answers, strict=True)):
            if left <= 0 or size <= 0:
                break
            if record is not None and answer.done() and isinstance(answer.exception(), ConnectionLost | RequestTimeout):
                answers[index] = self._backend.append(record, timeout=min(ATTEMPT, left))
                self._resent.add(record.message_id)
                self._backend.stats.enqueue_retries += 1
                size -= len(record.data)
        self._answers.clear()
        self._answers.extend(answers)

    async def _patiently(self, index: int, record: Record, answer: asyncio.Future[Receipt]) -> None:
        resent = record.message_id in self._resent
        self._resent.discard(record.message_id)
        storing = Storing(self._backend, record, self._deadline, self._find_stream, since=self._began, resent=resent)
        try:
            self._receipts[index] = await storing.receipt(answer)
        except BrokerError as exc:
            self._errors[index] = exc

    async def _find_stream(self, subject: str) -> str | None:
        """Asked once for all that wait for the same answer."""
        lookup = self._lookups.get(subject)
        if lookup is None:
            lookup = asyncio.get_running_loop().create_task(self._backend.find_stream(subject))
            self._lookups[subject] = lookup
            lookup.add_done_callback(partial(self._looked_up, subject))
        await asyncio.wait({lookup})
        return lookup.result()

    def _looked_up(self, subject: str, lookup: asyncio.Task[str | None]) -> None:
        del self._lookups[subject]
        _heed(lookup)


def _heed(future: asyncio.Future[Any]) -> None:
    """Look at its error, if it has one: nobody else may ask any more, and an error never asked for is logged."""
    if not future.cancelled():
        future.exception()


def _refused(error: BrokerError) -> asyncio.Future[Receipt]:
    """An answer that is there already."""
    answer: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
    answer.set_exception(error)
    return answer


def _unsent(record: Record) -> EnqueueUnknown:
    key, subject = key_of(record), record.subject
    return EnqueueUnknown(
        f"not sent on {subject!r}: the time was over; enqueue it again with idempotency_key={key!r}",
        idempotency_key=key,
        subject=subject,
    )
