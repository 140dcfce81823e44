"""Sends what settlements left in the outbox. A row stays until its stream has it, whoever crashes in between."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from broker import BrokerError, EnqueueManyError, Entry

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from broker import StreamBroker
    from services.settlement.ledger import Ledger

log = logging.getLogger("services.settlement")

_BATCH: Final = 500
_ORPHANED_AFTER: Final = 2.0
"""Seconds after which a worker also sends what another worker wrote and has not sent: it may be dead."""
_LOOK_AGAIN: Final = 1.0
_TIMEOUT: Final = 10.0


class OutboxRelay:
    """Enqueues outbox rows with their keys, then marks them sent.

    A crash in between repeats the enqueue: the stream drops it by its key, and beyond the stream's duplicate window
    the consumer drops it by the event's id.
    """

    def __init__(self, broker: StreamBroker, ledger: Ledger, thread: Executor) -> None:
        self._broker = broker
        self._ledger = ledger
        self._thread = thread
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Something was committed: look now."""
        self._wake.set()

    async def run(self) -> None:
        """Relay for ever: what is there at the start, then after every ``wake`` and at least once a second."""
        while True:
            self._wake.clear()
            if not await self.relay():
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), _LOOK_AGAIN)

    async def finish(self) -> None:
        """Return when nothing is left to send."""
        while await self.relay(orphaned_after=0.0):
            pass

    async def relay(self, *, orphaned_after: float = _ORPHANED_AFTER) -> bool:
        """One batch; whether there may be more. A failure is logged and the rows stay for the next time."""
        loop = asyncio.get_running_loop()
        try:
            rows = await loop.run_in_executor(
                self._thread, lambda: self._ledger.unsent(limit=_BATCH, orphaned_after=orphaned_after)
            )
            if not rows:
                return False
            entries = [Entry(row.subject, row.body, idempotency_key=row.key) for row in rows]
            try:
                await self._broker.enqueue_many(entries, timeout=_TIMEOUT)
                sent = rows
            except EnqueueManyError as exc:
                log.warning("outbox: %s", exc)
                sent = [rows[index] for index in sorted(exc.receipts)]
            await loop.run_in_executor(self._thread, self._ledger.mark_sent, sent)
        except (BrokerError, sqlite3.OperationalError) as exc:
            log.warning("outbox: nothing marked as sent: %s", exc)
            await asyncio.sleep(_LOOK_AGAIN)
        return True
