"""Many records on their way at once: a sliding window of appends, oldest first."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Final

from broker import silences
from broker.attempts import ATTEMPT, heed
from broker.contracts.envelopes import Entry, Receipt, Record
from broker.contracts.errors import (
    BrokerError,
    EnqueueManyError,
    EnqueueUnknown,
    InvalidOption,
    NoResponders,
)
from broker.keys import key_of
from broker.storing import Storing
from broker.tailback import Tailback, Waiting, not_heard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from broker.contracts.backend import StreamBackend

_BURST: Final = 128
_BURST_BYTES: Final = 256 << 10
"""Records and bytes of body sent before we look up: at the clock, at congestion, and give the event loop its turn. The
server works on these while we make the next; smaller ones are faster on an idle machine and slower on a busy one."""
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
        self._late: dict[int, Receipt] = {}
        self._tailbacks: dict[str, Tailback] = {}
        self._patient: set[asyncio.Task[None]] = set()
        self._aside = _refused(_Aside())
        heed(self._aside)
        self._resent: set[str] = set()
        self._lookups: dict[str, asyncio.Task[str | None]] = {}

    async def take(self, entries: Iterable[Entry]) -> None:
        """Send each entry as soon as the window has room; returns when it is known what became of all of them."""
        remaining = iter(entries)
        while self._send(remaining):
            if self._room() > 0:
                await asyncio.sleep(0)
            while self._room() <= 0:
                await self._land(self._refill)
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
        for index, receipt in self._late.items():
            self._receipts[index] = receipt
        if self._errors:
            stored = {index: receipt for index, receipt in enumerate(self._receipts) if receipt is not None}
            raise EnqueueManyError(stored, self._errors)
        return [receipt for receipt in self._receipts if receipt is not None]

    async def abandon(self) -> None:
        """Forget what is in flight (the caller was cancelled or gave up)."""
        for answer in chain(self._answers, *(each.answers() for each in self._tailbacks.values())):
            if not answer.cancel():
                heed(answer)
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
        # Where it was silent lately one of them soon goes ahead, and the others follow.
        attempt = min(silences.SOONER if silences.lately(self._backend, self._clock()) else ATTEMPT, left)
        room = min(self._room(), _BURST)
        size = _BURST_BYTES
        for entry in entries:
            try:
                if not isinstance(entry, Entry):
                    raise InvalidOption(f"{entry!r} is not an Entry", option="entries")
                made = record(entry)
                check_open()
                if left <= 0:
                    raise _unsent(made)
                if self._tailbacks and self._held_back(made):
                    answers(self._aside)
                    records(None)
                else:
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
        for place in (min(count, len(answers)) - 1, 0):
            with suppress(BrokerError):  # told in its turn, below
                await answers[place]
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

        After a break or a silence one goes ahead, and the others follow in their order when it has arrived. So it is
        with what nobody answered to, but beside the rest and for each ordering key (or subject) on its own: their
        stream may be missing or without a leader, and the others' not.
        """
        index = len(self._receipts)
        self._receipts.append(None)
        if isinstance(error, _Aside):
            return
        if record is None:
            self._errors[index] = error
        elif isinstance(error, NoResponders):
            self._step_aside(index, record, answer)
        else:
            await self._patiently(index, record, answer)
            if index in self._late:
                self._follow()

    def _step_aside(self, index: int, record: Record, answer: asyncio.Future[Receipt]) -> None:
        """Make way for the others: what nobody answered to, and all that must not be stored before it."""
        flying = list(zip(self._records, self._answers, strict=True))
        stuck = {_line(each) for each, its in flying if each is not None and not_heard(its, NoResponders)}
        for line in {_line(record), *stuck}:
            self._tailbacks[line] = Tailback(self._patiently, self._follow_in, self._errors.__setitem__)
        self._tailbacks[_line(record)].join(Waiting(index, record, answer))
        self._records.clear()
        self._answers.clear()
        for place, (each, its) in enumerate(flying, index + 1):
            tailback = None if each is None else self._tailbacks.get(_line(each))
            if each is not None and tailback is not None:
                tailback.join(Waiting(place, each, its))
            self._records.append(each if tailback is None else None)
            self._answers.append(its if tailback is None else self._aside)
        for line in {_line(record), *stuck}:
            task = asyncio.get_running_loop().create_task(self._clear(line))
            self._patient.add(task)
            task.add_done_callback(self._patient.discard)

    async def _clear(self, line: str) -> None:
        await self._tailbacks[line].clear()
        del self._tailbacks[line]

    def _held_back(self, record: Record) -> bool:
        """Whether it has to wait: others of its key, before it, do."""
        tailback = self._tailbacks.get(_line(record))
        if tailback is None:
            return False
        tailback.join(Waiting(len(self._receipts) + len(self._answers), record, None))
        return True

    def _room(self) -> int:
        """How many more may be taken."""
        return self._window - len(self._answers) - sum(map(len, self._tailbacks.values()))

    def _follow(self) -> None:
        """Send again what was not heard of with the one that has arrived now."""
        flying = list(zip(self._records, self._answers, strict=True))
        lost = deque(
            Waiting(place, each, its) for place, (each, its) in enumerate(flying) if each is not None and not_heard(its)
        )
        self._follow_in(lost)
        resent = {each.index: each.answer for each in lost}
        self._answers.clear()
        self._answers.extend(resent.get(place) or its for place, (_, its) in enumerate(flying))

    def _follow_in(self, waiting: deque[Waiting]) -> None:
        """Send (again) what has no answer, in order, as much as goes in one burst."""
        left, size = self._deadline - self._clock(), _BURST_BYTES
        for each in waiting:
            if left <= 0 or size <= 0:
                break
            if each.answer is not None:
                if not not_heard(each.answer):
                    continue
                if not not_heard(each.answer, NoResponders):
                    self._resent.add(each.record.message_id)
                self._backend.stats.enqueue_retries += 1
            each.answer = self._backend.append(each.record, timeout=min(ATTEMPT, left))
            size -= len(each.record.data)

    async def _patiently(
        self, index: int, record: Record, answer: asyncio.Future[Receipt] | None
    ) -> BrokerError | None:
        """See one through; the error it came to, when all that nobody answered to on its subject come to the same."""
        resent = record.message_id in self._resent
        self._resent.discard(record.message_id)
        storing = Storing(self._backend, record, self._deadline, self._find_stream, since=self._began, resent=resent)
        try:
            self._late[index] = await storing.receipt(answer)
        except BrokerError as exc:
            self._errors[index] = exc
            return exc if storing.stranded and not isinstance(exc, EnqueueUnknown) else None
        return None

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
        heed(lookup)


class _Aside(BrokerError):
    """Stands in the window for a record that has stepped aside."""


def _line(record: Record) -> str:
    """What keeps its order: the messages of one ordering key, or else of one subject."""
    return record.ordering_key or record.subject


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
