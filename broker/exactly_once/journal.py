"""``Journal``: an outbox on this machine's disk, for programs without a database of their own."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from broker.contracts.errors import BrokerClosed, BrokerError, InvalidKey
from broker.contracts.options import in_range
from broker.contracts.status import Status
from broker.exactly_once.errors import DatabaseUnavailable, JournalFull
from broker.exactly_once.outbox import Outbox
from broker.exactly_once.trouble import is_damage

if TYPE_CHECKING:
    from os import PathLike

    from broker.contracts.envelopes import Entry, Receipt
    from broker.exactly_once.shelf import Book
    from broker.stream_broker import StreamBroker

log = logging.getLogger("broker.exactly_once")

_TOGETHER: Final = 500
"""Events that share a commit at most."""
_TENDING: Final = 30.0
"""Seconds between two looks at what others have left, and at what may go."""
_LAST_WORDS: Final = 1.0
"""Seconds that closing waits for what is in the journal to reach its stream."""
_SOON: Final = 0.02
_TROUBLE: Final = 5.0
DAY: Final = 86_400.0


@dataclass(slots=True, eq=False)
class Slip:
    """One event on its way into the journal and on to its stream."""

    entry: Entry
    written: asyncio.Future[None]
    stored: asyncio.Future[Receipt]


class Journal:
    """Events on disk here until their stream has them: a kill, a restart, a server that is away cost time only.

    Every process has a file of its own in the directory. What a process that died left behind is sent by the next one
    that takes its file, or by any other that works there, within half a minute.

    Attributes:
        waiting: events that no stream has yet.

    Args:
        directory: on a local disk that outlives the process; for one server, since what is in it is sent there.
        keep: seconds that what was sent is kept, so that a repeat is recognized, from 0.
        most: events that may wait; beyond it ``JournalFull``.

    Raises:
        InvalidOption: out of range.
    """

    def __init__(self, directory: str | PathLike[str], *, keep: float = DAY, most: int = 1_000_000) -> None:
        in_range("keep", keep, 0)
        in_range("most", most, 1, whole=True)
        from broker.exactly_once.shelf import Shelf  # noqa: PLC0415 - file locks are not on every system; inboxes are

        self.waiting = 0
        self._shelf = Shelf(Path(directory).absolute())
        self._keep = keep
        self._most = most
        self._pending: deque[Slip] = deque()
        self._arrived = asyncio.Event()
        self._expected: dict[tuple[str, str], list[Slip]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._closed = False
        self._broker: StreamBroker
        self._book: Book
        self._outbox: Outbox

    async def open(self, broker: StreamBroker) -> Self:
        """Begin: what was left in the file is sent first.

        Raises:
            OSError: the directory cannot be used.
            DatabaseUnavailable: the file cannot; one that is damaged is set aside, and another begun.
        """
        self._broker = broker
        self._book = self._shelf.take()
        try:
            self._outbox, self.waiting = await _opened(self._book)
        except BaseException:
            self._book.put_back()
            raise
        for work in (self._write_forever(), self._relay_forever(), self._tend_forever()):
            self._tasks.append(asyncio.create_task(work, name=f"journal {self._book.path.name}"))
        return self

    async def write(self, entry: Entry) -> Slip:
        """Put an event on disk; what comes of it is asked of ``stored``.

        Raises:
            KeyConflict: another body is there under its key.
            JournalFull: too much waits.
            DatabaseUnavailable: not known to be written; the disk is full, for one.
            BrokerClosed: its broker is closed.
        """
        if self._closed:
            raise BrokerClosed("the journal is closed with its broker")
        if self.waiting + len(self._pending) >= self._most:
            raise JournalFull(f"{self.waiting:,} events wait in {self._book.path}", subject=entry.subject)
        loop = asyncio.get_running_loop()
        slip = Slip(entry, loop.create_future(), loop.create_future())
        self._pending.append(slip)
        self._arrived.set()
        await slip.written
        return slip

    async def stored(self, slip: Slip, timeout: float) -> Receipt | None:
        """The stream's word, ``None`` when it is not there in so many seconds; the event stays where it is."""
        try:
            await asyncio.wait([slip.stored], timeout=timeout)
        finally:
            self._expect_no_more(slip)
        return slip.stored.result() if slip.stored.done() else None

    async def drain(self, timeout: float, *, caller: asyncio.Task[Any] | None = None) -> None:
        """With no time left: the end. Until then handlers that are finishing may still send. Idempotent."""
        del caller
        if timeout > 0 or self._closed:
            return
        self._closed = True
        await self._last_words()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for slip in self._pending:
            if not slip.written.done():
                slip.written.set_exception(BrokerClosed("the journal was closed before it was written"))
        await self._outbox.aclose()
        self._book.put_back()

    async def _last_words(self) -> None:
        """Until everything is sent and known to be: what is only sent would be sent again by the next one."""
        if self._broker.status in {Status.CONNECTED, Status.DRAINING}:
            with suppress(TimeoutError, BrokerError):
                async with asyncio.timeout(_LAST_WORDS):
                    while self._pending or await self._outbox.waiting():  # noqa: ASYNC110 - asked of the file, at the end only
                        await asyncio.sleep(_SOON)

    # -- onto the disk: who waits at the same time shares a commit

    async def _write_forever(self) -> None:
        while True:
            while not self._pending:
                self._arrived.clear()
                await self._arrived.wait()
            slips = [self._pending.popleft() for _ in range(min(_TOGETHER, len(self._pending)))]
            slips = [slip for slip in slips if not slip.written.cancelled()]
            try:
                await self._write(slips)
            except BrokerError as exc:
                _fail(slips, exc)
            except Exception as exc:
                log.exception("journal %s cannot be written", self._book.path)
                _fail(slips, DatabaseUnavailable(f"the journal {self._book.path} cannot be written: {exc}"))
            except BaseException:
                _fail(
                    slips, BrokerClosed("the journal was closed while it was written: whether it is there is unknown")
                )
                raise

    async def _write(self, slips: list[Slip]) -> None:
        refused: list[tuple[Slip, BrokerError]] = []
        known: list[tuple[Slip, Receipt]] = []
        fresh = 0
        try:
            async with self._outbox.transaction() as tx:
                for slip in slips:
                    subject, body, key, ordering_key, *_ = slip.entry
                    repeats = self._outbox.stats.repeats
                    self._expected.setdefault(_name(slip), []).append(slip)
                    try:
                        await self._outbox.enqueue(tx, subject, body, idempotency_key=key, ordering_key=ordering_key)
                    except InvalidKey as exc:  # a conflict: its own affair
                        refused.append((slip, exc))
                        continue
                    if self._outbox.stats.repeats == repeats:
                        fresh += 1
                    elif (receipt := await self._outbox.receipt(tx, subject, key or "")) is not None:
                        known.append((slip, receipt))
                self.waiting += fresh  # before the relay can have sent one of them
                fresh = -fresh
        except BaseException:
            self.waiting += min(0, fresh)
            for slip in slips:
                self._expect_no_more(slip)
            raise
        for slip, error in refused:
            self._expect_no_more(slip)
            _fail([slip], error)
        for slip, receipt in known:
            self._expect_no_more(slip)
            _resolve(slip.stored, receipt)
        for slip in slips:
            _resolve(slip.written, None)

    def _expect_no_more(self, slip: Slip) -> None:
        expected = self._expected.get(_name(slip), [])
        if slip in expected:
            expected.remove(slip)
            if not expected:
                del self._expected[_name(slip)]

    # -- on to the stream

    async def _relay_forever(self) -> None:
        while True:
            try:
                async with self._outbox.relay(self._broker, tell=self._told) as relay:
                    await relay.wait()
            except BrokerError:  # logged; a broker that will never send again takes no events either
                return
            except Exception:
                log.exception("journal %s cannot be read", self._book.path)
                await asyncio.sleep(_TROUBLE)

    def _told(self, subject: str, key: str, receipt: Receipt) -> None:
        self.waiting = max(0, self.waiting - 1)
        for slip in self._expected.pop((subject, key), ()):
            _resolve(slip.stored, receipt)

    # -- what others left, and what may go

    async def _tend_forever(self) -> None:
        while True:
            try:
                for book in self._shelf.left():
                    await self._see_to(book)
                await self._outbox.prune(keep=self._keep)
            except Exception as exc:  # noqa: BLE001 - whatever is wrong with one file, the others are looked at again
                log.warning("journal %s: what others left could not be seen to: %s", self._book.path, exc)
            await asyncio.sleep(_TENDING)

    async def _see_to(self, book: Book) -> None:
        try:
            await self._send_what_is_left(book)
        except Exception as exc:  # noqa: BLE001 - whatever is wrong with one file, the others are seen to
            if is_damage(exc):
                book.set_aside(exc)
            else:
                log.warning("journal %s: what is left in it could not be seen to: %s", book.path, exc)
        finally:
            book.put_back()

    async def _send_what_is_left(self, book: Book) -> None:
        async with Outbox(book.url) as outbox:
            await _make_ours(outbox)
            if left := await outbox.waiting():
                log.info("%d events that another process left in %s are sent", left, book.path)
                with suppress(TimeoutError):
                    async with asyncio.timeout(_TENDING), outbox.relay(self._broker):
                        while await outbox.waiting():  # noqa: ASYNC110 - asked of the file, which tells nobody
                            await asyncio.sleep(0.2)
            await outbox.prune(keep=self._keep)


async def _opened(book: Book) -> tuple[Outbox, int]:
    """An outbox in that file, and how much waits there."""
    try:
        return await _try_to_open(book)
    except Exception as exc:
        if not is_damage(exc):
            raise _typed(book, exc) from exc
        book.set_aside(exc)
    try:
        return await _try_to_open(book)
    except Exception as exc:
        raise _typed(book, exc) from exc


async def _try_to_open(book: Book) -> tuple[Outbox, int]:
    outbox = Outbox(book.url)
    try:
        await _make_ours(outbox)
        return outbox, await outbox.waiting()
    except BaseException:
        await outbox.aclose()
        raise


def _typed(book: Book, error: Exception) -> Exception:
    if isinstance(error, BrokerError | OSError):
        return error
    told = str(error).split("\n", 1)[0]
    return DatabaseUnavailable(f"the journal {book.path} cannot be used: {told}")


async def _make_ours(outbox: Outbox) -> None:
    """Its file is locked by us, so whoever relayed from it is dead, and no lease of theirs needs to run out."""
    await outbox.create()
    await outbox.check()
    async with outbox.transaction() as tx:
        await tx.exec_driver_sql("DELETE FROM gamebroker_relay")


def _name(slip: Slip) -> tuple[str, str]:
    return slip.entry.subject, slip.entry.idempotency_key or ""


def _resolve(future: asyncio.Future[Any], value: Any) -> None:
    if not future.done():
        future.set_result(value)


def _fail(slips: list[Slip], error: BrokerError) -> None:
    for slip in slips:
        if not slip.written.done():
            slip.written.set_exception(error)
