"""The core tier, traced."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from broker.contracts.backend import CoreBackend
from broker.contracts.envelopes import Envelope
from broker.contracts.errors import PayloadTooLarge
from broker.contracts.headers import error_kind
from broker.telemetry.propagation import arrived

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.contracts.backend import Around, Deliver, Interest
    from broker.contracts.envelopes import Delivery
    from broker.contracts.headers import Headers
    from broker.telemetry.probe import Probe, Sending


class TracedCore(CoreBackend):
    """A backend inside telemetry: same calls, same results, same errors.

    Args:
        backend: the one that does the work.
        probe: what watches it.
    """

    def __init__(self, backend: CoreBackend, probe: Probe) -> None:
        self.capabilities = backend.capabilities
        self.board = backend.board
        self.stats = backend.stats
        self.around = probe.process if backend.around is None else _nested(probe.process, backend.around)
        self._backend = backend
        self._probe = probe
        self._stop_counting = probe.instruments.counters.follow(self, probe.system, backend.stats)

    def __getattr__(self, name: str) -> Any:
        """What a backend has beyond the seam (a clock to drive, a connection to look at) is there as well."""
        if name == "_backend":  # not there before __init__, after copy() or pickle
            raise AttributeError(name)
        return getattr(self._backend, name)

    @property
    def max_payload(self) -> int:
        """Bytes of body and headers together that one message may have."""
        return self._backend.max_payload

    @property
    def congested(self) -> bool:
        """Whether the outbound buffer is above its high-water mark."""
        return self._backend.congested

    async def writable(self) -> None:
        """Wait until the outbound buffer is below its high-water mark."""
        await self._backend.writable()

    def publish(self, subject: str, data: bytes, headers: Headers | None, reply_to: str | None = None) -> None:
        """Send inside a span. A frame that nobody samples is sent as it is, without headers of ours."""
        with self._probe.publish(subject, headers) as send:
            if send.injected:
                try:
                    self._backend.publish(subject, data, send.headers, reply_to)
                except PayloadTooLarge:
                    send.drop_context()
                else:
                    return
            self._backend.publish(subject, data, headers, reply_to)

    async def request(self, subject: str, data: bytes, headers: Headers | None, *, timeout: float) -> Envelope:
        """Ask inside a span that ends with the reply, and knows an error reply when it sees one."""
        with self._probe.ask(subject, headers) as send:
            reply = await self._ask(send, subject, data, headers, timeout)
            if kind := error_kind(reply.headers):
                send.blame(kind, "the responder raised")
            return _arrived(reply)

    async def _ask(self, send: Sending, subject: str, data: bytes, headers: Headers | None, timeout: float) -> Envelope:
        if send.injected:
            try:
                return await self._backend.request(subject, data, send.headers, timeout=timeout)
            except PayloadTooLarge:
                send.drop_context()
        return await self._backend.request(subject, data, headers, timeout=timeout)

    def new_inbox(self) -> str:
        """A fresh subject under the inbox prefix."""
        return self._backend.new_inbox()

    async def subscribe(self, subject: str, deliver: Deliver, *, queue: str | None) -> Interest:
        """No span yet: a message gets it when a handler works on it, not when it arrives."""
        return await self._backend.subscribe(subject, lambda envelope: deliver(_arrived(envelope)), queue=queue)

    async def flush(self, *, timeout: float) -> None:
        """Return when the server has processed everything sent before."""
        await self._backend.flush(timeout=timeout)

    async def close(self) -> None:
        """Close, and leave the final numbers in the metrics."""
        try:
            await self._backend.close()
        finally:
            self._stop_counting()


def _arrived(envelope: Envelope) -> Envelope:
    # A new one: the backend may have handed the same envelope to somebody who is not traced.
    return Envelope(envelope.subject, envelope.data, arrived(envelope.headers), envelope.reply_to)


def _nested(outer: Around, inner: Around) -> Around:
    @contextmanager
    def both(message: Envelope | Delivery) -> Iterator[None]:
        with outer(message), inner(message):
            yield

    return both
