"""One attempt to store an atomic batch: a span for every record, all of them ended by the one answer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from broker.contracts.errors import PayloadTooLarge
from broker.telemetry import naming

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from broker.contracts.backend import StreamBackend
    from broker.contracts.envelopes import Receipt, Record
    from broker.telemetry.probe import Probe, Sending


def append_batch(
    backend: StreamBackend,
    probe: Probe,
    records: Sequence[Record],
    timeout: float,
    carrying: Callable[[Record, Sending], Record],
) -> asyncio.Future[Sequence[Receipt]]:
    """Store the records with their trace contexts, or without when they are too large with them."""
    batch = _Batch(backend, records, timeout, [probe.enqueue(record) for record in records])
    batch.start([carrying(record, send) for record, send in zip(records, batch.sends, strict=True)])
    return batch.receipts


class _Batch:
    """Hands the backend's outcome on to a future of its own, see ``Appending``."""

    def __init__(
        self, backend: StreamBackend, records: Sequence[Record], timeout: float, sends: Sequence[Sending]
    ) -> None:
        self.sends = sends
        self._backend = backend
        self._records = records
        self._timeout = timeout
        self._bare = not any(send.injected for send in sends)
        self._attempt: asyncio.Future[Sequence[Receipt]] | None = None
        self.receipts: asyncio.Future[Sequence[Receipt]] = asyncio.get_running_loop().create_future()
        self.receipts.add_done_callback(self._abandoned)

    def start(self, records: Sequence[Record]) -> None:
        """Send it. What the backend raises at once is raised at once."""
        try:
            self._attempt = self._backend.append_atomic(records, timeout=self._timeout)
        except BaseException as exc:
            self._end(exc)
            raise
        self._attempt.add_done_callback(self._settle)

    def _settle(self, attempt: asyncio.Future[Sequence[Receipt]]) -> None:
        if self.receipts.done():
            if not attempt.cancelled():
                attempt.exception()
            return
        if attempt.cancelled():
            self.receipts.cancel()
            return
        error = attempt.exception()
        if error is None:
            self._stored(attempt.result())
        elif isinstance(error, PayloadTooLarge) and not self._bare:
            self._send_bare()
        else:
            self._end(error)
            self.receipts.set_exception(error)

    def _stored(self, receipts: Sequence[Receipt]) -> None:
        for send, receipt in zip(self.sends, receipts, strict=True):
            if send.span.is_recording():
                send.span.set_attributes({naming.STREAM: receipt.stream, naming.SEQUENCE: receipt.sequence})
        self._end()
        self.receipts.set_result(receipts)

    def _send_bare(self) -> None:
        self._bare = True
        for send in self.sends:
            if send.injected:
                send.drop_context()
        try:
            self.start(self._records)
        except Exception as exc:  # noqa: BLE001 - this runs as a callback; the caller hears of it from the future
            self.receipts.set_exception(exc)

    def _end(self, error: BaseException | None = None) -> None:
        for send in self.sends:
            send.end(error)

    def _abandoned(self, receipts: asyncio.Future[Sequence[Receipt]]) -> None:
        if receipts.cancelled():
            self._end()
            if self._attempt is not None:
                self._attempt.cancel()
