"""One attempt to store a message, from its span's beginning to its end, without a task."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from broker.contracts.errors import PayloadTooLarge
from broker.telemetry import naming

if TYPE_CHECKING:
    from broker.contracts.backend import StreamBackend
    from broker.contracts.envelopes import Receipt, Record
    from broker.telemetry.probe import Sending


class Appending:
    """Hands the backend's outcome on to a future of its own.

    Of its own, because a message may have to be sent twice: a stream that refuses it as too large with the trace
    context (its ``max_msg_size`` is known to the server only) gets it without.

    Attributes:
        receipt: what the caller waits for; completes as the backend's future does.
    """

    def __init__(self, backend: StreamBackend, record: Record, timeout: float, send: Sending) -> None:
        self._backend = backend
        self._record = record
        self._timeout = timeout
        self._send = send
        self._attempt: asyncio.Future[Receipt] | None = None
        self.receipt: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self.receipt.add_done_callback(self._abandoned)

    def start(self, record: Record) -> None:
        """Send it. What the backend raises at once is raised at once."""
        try:
            self._attempt = self._backend.append(record, timeout=self._timeout)
        except BaseException as exc:
            self._send.end(exc)
            raise
        if self._attempt.done():
            self._settle(self._attempt)
        else:
            self._attempt.add_done_callback(self._settle)

    def _settle(self, attempt: asyncio.Future[Receipt]) -> None:
        if self.receipt.done():
            return
        if attempt.cancelled():
            self.receipt.cancel()
            return
        error = attempt.exception()
        if error is None:
            self._stored(attempt.result())
        elif isinstance(error, PayloadTooLarge) and self._send.injected:
            self._send_bare()
        else:
            self._send.end(error)
            self.receipt.set_exception(error)

    def _stored(self, receipt: Receipt) -> None:
        span = self._send.span
        if span.is_recording():
            span.set_attributes({naming.STREAM: receipt.stream, naming.SEQUENCE: receipt.sequence})
            if receipt.duplicate:
                span.set_attribute(naming.DUPLICATE, value=True)
        self._send.end()
        self.receipt.set_result(receipt)

    def _send_bare(self) -> None:
        self._send.drop_context()
        try:
            self.start(self._record)
        except Exception as exc:  # noqa: BLE001 - this runs as a callback; the caller hears of it from the future
            self.receipt.set_exception(exc)

    def _abandoned(self, receipt: asyncio.Future[Receipt]) -> None:
        if receipt.cancelled():
            self._send.end()
            if self._attempt is not None:
                self._attempt.cancel()
