"""The stream tier, traced."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from msgspec import structs

from broker.contracts.backend import DeliverySource, StreamBackend
from broker.telemetry import naming
from broker.telemetry.appending import Appending
from broker.telemetry.core import TracedCore
from broker.telemetry.propagation import arrived

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Sequence

    from broker.contracts.admin import ConsumerInfo, StreamInfo
    from broker.contracts.envelopes import Delivery, Receipt, Record, StoredMessage
    from broker.contracts.events import Observe
    from broker.contracts.options import ConsumerOptions, StreamOptions
    from broker.telemetry.probe import Probe


class TracedStreams(TracedCore, StreamBackend):
    """A stream backend inside telemetry. Sends, fetches and settlements get spans; administration does not.

    Args:
        backend: the one that does the work.
        probe: what watches it.
    """

    def __init__(self, backend: StreamBackend, probe: Probe) -> None:
        super().__init__(backend, probe)
        self._streams = backend

    def append(self, record: Record, *, timeout: float) -> asyncio.Future[Receipt]:
        """Store inside a span that ends with the receipt."""
        send = self._probe.enqueue(record)
        appending = Appending(self._streams, record, timeout, send)
        appending.start(structs.replace(record, headers=send.headers) if send.injected else record)
        return appending.receipt

    async def open_consumer(self, options: ConsumerOptions) -> DeliverySource:
        """A traced source on the consumer."""
        return TracedSource(await self._streams.open_consumer(options), self._probe)

    async def find_stream(self, subject: str) -> str | None:
        """The name of the stream that captures the subject."""
        return await self._streams.find_stream(subject)

    async def create_stream(self, options: StreamOptions) -> StreamInfo:
        """Create it."""
        return await self._streams.create_stream(options)

    async def update_stream(self, options: StreamOptions) -> StreamInfo:
        """Change an existing stream."""
        return await self._streams.update_stream(options)

    async def stream_info(self, name: str) -> StreamInfo:
        """What the server says about a stream."""
        return await self._streams.stream_info(name)

    def list_streams(self) -> AsyncIterator[StreamInfo]:
        """Every stream."""
        return self._streams.list_streams()

    async def delete_stream(self, name: str) -> None:
        """Delete a stream."""
        await self._streams.delete_stream(name)

    async def purge_stream(self, name: str, *, subject: str | None, up_to: int | None, keep: int | None) -> int:
        """How many messages were removed."""
        return await self._streams.purge_stream(name, subject=subject, up_to=up_to, keep=keep)

    async def get_message(self, stream: str, *, sequence: int | None, last_of: str | None) -> StoredMessage | None:
        """One message, read straight from the stream."""
        stored = await self._streams.get_message(stream, sequence=sequence, last_of=last_of)
        return None if stored is None else replace(stored, headers=arrived(stored.headers))

    async def delete_message(self, stream: str, sequence: int) -> bool:
        """Whether there was one."""
        return await self._streams.delete_message(stream, sequence)

    async def consumer_info(self, stream: str, name: str) -> ConsumerInfo:
        """What the server says about a consumer."""
        return await self._streams.consumer_info(stream, name)

    def list_consumers(self, stream: str) -> AsyncIterator[ConsumerInfo]:
        """Every consumer of the stream."""
        return self._streams.list_consumers(stream)

    async def delete_consumer(self, stream: str, name: str) -> None:
        """Delete a consumer."""
        await self._streams.delete_consumer(stream, name)


class TracedSource(DeliverySource):
    """A worker's view of a consumer, traced.

    Args:
        source: the one that does the work.
        probe: what watches it.
    """

    def __init__(self, source: DeliverySource, probe: Probe) -> None:
        self.stream = source.stream
        self.consumer = source.consumer
        self._source = source
        self._probe = probe

    def __getattr__(self, name: str) -> Any:
        """What a source has beyond the seam is there as well."""
        if name == "_source":  # not there before __init__, after copy() or pickle
            raise AttributeError(name)
        return getattr(self._source, name)

    @property
    def resume_sequence(self) -> int | None:
        """Where a re-created consumer must start so that nothing is lost."""
        return self._source.resume_sequence

    async def fetch(self, limit: int, *, timeout: float, max_bytes: int | None = None) -> Sequence[Delivery]:
        """Fetch; a span is written when something came, for an idle worker asks all day."""
        began = time.time_ns()
        deliveries = await self._source.fetch(limit, timeout=timeout, max_bytes=max_bytes)
        if deliveries:
            self._probe.receive(deliveries, self.stream, self.consumer, since_ns=began)
        for delivery in deliveries:
            delivery.headers = arrived(delivery.headers)
        return deliveries

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Settled: done."""
        if not deliveries:
            return
        with self._probe.settle("ack", deliveries, self.stream, self.consumer):
            await self._source.ack(deliveries)

    async def confirm_ack(self, delivery: Delivery, *, timeout: float) -> None:
        """Settled: done, and the server said that it knows."""
        with self._probe.settle("ack", [delivery], self.stream, self.consumer):
            await self._source.confirm_ack(delivery, timeout=timeout)

    async def nak(self, delivery: Delivery, *, delay: float) -> None:
        """Given back."""
        with self._probe.settle("nak", [delivery], self.stream, self.consumer):
            await self._source.nak(delivery, delay=delay)

    async def term(self, delivery: Delivery, *, reason: str) -> None:
        """Settled: never hand it out again."""
        with self._probe.settle("term", [delivery], self.stream, self.consumer) as working:
            if reason:
                working.span.set_attribute(naming.REASON, reason)
            await self._source.term(delivery, reason=reason)

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        """Still working; no event in a message's life, so no span."""
        await self._source.extend(deliveries)

    def watch(self, observe: Observe) -> None:
        """What happens to the consumer is told as it is."""
        self._source.watch(observe)

    async def close(self) -> None:
        """Give back what was not fetched and stop asking."""
        await self._source.close()
