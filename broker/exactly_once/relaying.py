"""The relay: takes committed rows from the outbox to their streams, each until its stream has it."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Self

from broker.contracts.envelopes import Entry
from broker.contracts.errors import BrokerClosed, BrokerError, EnqueueManyError, Unauthorized
from broker.exactly_once import hooks
from broker.exactly_once.unheard import Unheard

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from broker.contracts.envelopes import Receipt
    from broker.exactly_once.claiming import Claim, Claiming, Row
    from broker.exactly_once.stats import OutboxStats
    from broker.stream_broker import StreamBroker

log = logging.getLogger("broker.exactly_once")

_SOON: Final = 0.002
"""Seconds until the second look after a commit that was announced a moment before it is done."""
_TROUBLE: Final = (0.1, 5.0)
"""Seconds between attempts while the database is not there: the first, and the longest."""
_BRIEFLY: Final = 1.0
"""Seconds that new rows are waited for at most while some stream is silent: others will be."""


class Bell(asyncio.Event):
    """Rung when something was committed, or is about to be.

    Attributes:
        early: whether it was rung a moment before the commit is done.
    """

    early = False

    def ring(self, *, early: bool) -> None:
        """Wake whoever waits."""
        self.early = self.early or early
        self.set()

    def clear(self) -> None:
        """Nothing was heard."""
        self.early = False
        super().clear()


class Relay:
    """A relay at work inside ``async with``.

    A crash between storing and marking stores again with the same key: a repeat that the stream, or beyond its window
    the consumer's inbox, drops.
    """

    def __init__(
        self,
        claiming: Claiming,
        broker: StreamBroker,
        committed: Bell,
        stats: OutboxStats,
        *,
        poll: float,
        timeout: float,
        tell: Callable[[str, str, Receipt], None] | None = None,
    ) -> None:
        self._tell = tell
        self._claiming = claiming
        self._broker = broker
        self._committed = committed
        self._stats = stats
        self._poll = poll
        self._timeout = timeout
        self._running: list[asyncio.Task[None]] = []
        self._unheard = Unheard(lambda: asyncio.get_running_loop().time())

    async def __aenter__(self) -> Self:
        for work, what in ((self._send_new(), "new"), (self._send_again(), "again")):
            running = asyncio.create_task(work, name=f"relay outbox, {what}")
            running.add_done_callback(_retrieve)
            self._running.append(running)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop where it is; what was in hand is sent again by the next one, under the same keys."""
        if self._running:
            for running in self._running:
                running.cancel()
            await asyncio.wait(self._running)
        with suppress(BrokerError):
            await self._claiming.release()

    async def wait(self) -> None:
        """Until it is stopped.

        Raises:
            BrokerClosed, Unauthorized: the broker will never send again.
        """
        if self._running:
            over, _ = await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
            for running in over:
                if not running.cancelled():
                    running.result()

    async def _send_new(self) -> None:
        """What was committed since, at once when that was here."""
        pause = self._poll
        while True:
            if self._committed.is_set():
                pause = _SOON if self._committed.early else self._poll
                self._committed.clear()
            if not await self._pass(again=False):
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._committed.wait()
                pause = min(pause * 2, self._poll)

    async def _send_again(self) -> None:
        """What failed before: beside the others, which need not wait for a stream that is full or does not answer."""
        while True:
            if not await self._pass(again=True):
                await asyncio.sleep(self._poll)

    async def _pass(self, *, again: bool) -> bool:
        """Send what there is; whether there may be more."""
        trouble = _TROUBLE[0]
        while True:
            try:
                ask = self._unheard.to_ask() if again else ()
                async with self._claiming.claim(again=again, unheard=self._unheard.subjects, ask=ask) as claim:
                    self._unheard.forget(set(ask).difference(row.subject for row in claim.rows))
                    brief = bool(self._unheard) and not again
                    timeout = min(self._timeout, _BRIEFLY) if brief else self._timeout
                    sent = await self._send(claim, timeout)
                    return sent > 0 and (bool(ask) or len(claim.rows) >= self._claiming.batch)
            except (BrokerClosed, Unauthorized):
                raise
            except BrokerError as exc:
                log.warning("relaying the outbox: %s", exc)
                await asyncio.sleep(trouble * random.uniform(0.5, 1.0))
                trouble = min(trouble * 2, _TROUBLE[1])

    async def _send(self, claim: Claim, timeout: float) -> int:
        """Each ordering key one after the other, keys side by side; what a key's failure leaves is left for later."""
        queues = _queues(claim.rows)
        sent = 0
        while queues:
            turn = [queue.popleft() for queue in queues]
            receipts, errors = await self._store(turn, timeout)
            for index, receipt in receipts.items():
                claim.sent(turn[index], receipt)
                self._stats.duplicates += receipt.duplicate
                if self._tell is not None:
                    self._tell(turn[index].subject, turn[index].key, receipt)
            for index, error in errors.items():
                claim.failed(turn[index], error)
                if isinstance(error, TimeoutError):
                    self._unheard.note(turn[index].subject)
            if self._unheard:
                self._unheard.forget(turn[index].subject for index in receipts)
            _tell_failed(turn, errors)
            sent += len(receipts)
            self._stats.sent += len(receipts)
            self._stats.failed += len(errors)
            queues = [queue for index, queue in enumerate(queues) if queue and index in receipts]
        hooks.reached("before_mark")
        return sent

    async def _store(
        self, rows: Sequence[Row], timeout: float
    ) -> tuple[Mapping[int, Receipt], Mapping[int, BrokerError]]:
        entries = [Entry(row.subject, row.body, row.key, row.ordering_key, row.pairs) for row in rows]
        try:
            receipts = await self._broker.enqueue_many(entries, timeout=timeout)
        except EnqueueManyError as exc:
            for error in exc.errors.values():
                if isinstance(error, BrokerClosed | Unauthorized):  # for all of them, and for good
                    raise error from exc
            return exc.receipts, exc.errors
        return dict(enumerate(receipts)), {}


def _queues(rows: Sequence[Row]) -> list[deque[Row]]:
    """Rows that may go side by side, each with those that must come after it."""
    keyed: dict[str, deque[Row]] = {}
    alone = []
    for row in rows:
        if row.ordering_key is None:
            alone.append(deque([row]))
        else:
            keyed.setdefault(row.ordering_key, deque()).append(row)
    return [*alone, *keyed.values()]


def _tell_failed(rows: Sequence[Row], errors: Mapping[int, BrokerError]) -> None:
    """One line for each kind of failure, however many rows have it: each of them has its own in the table."""
    kinds: dict[str, list[int]] = {}
    for index, error in errors.items():
        kinds.setdefault(type(error).__name__, []).append(index)
    for kind, (first, *others) in kinds.items():
        row, more = rows[first], f" and {len(others)} more" if others else ""
        log.warning("outbox row %d (%s)%s waits: %s: %s", row.id, row.subject, more, kind, errors[first])


def _retrieve(task: asyncio.Task[None]) -> None:
    """Its error is logged and raised by ``wait``; nobody has to call that."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("the relay ended: %s", error, exc_info=error)
