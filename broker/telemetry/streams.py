"""The stream tier, traced."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from msgspec import structs

from broker.contracts.backend import DeliverySource, StreamBackend
from broker.contracts.durability import Kept, TellsDurability
from broker.telemetry import naming
from broker.telemetry.appending import Appending
from broker.telemetry.batching import append_batch
from broker.telemetry.core import TracedCore
from broker.telemetry.propagation import arrived

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Sequence
    from datetime import datetime

    from broker.contracts.admin import ConsumerInfo, StreamInfo
    from broker.contracts.envelopes import Delivery, Receipt, Record, StoredMessage
    from broker.contracts.events import Observe
    from broker.contracts.options import ConsumerOptions, StreamOptions
    from broker.telemetry.probe import Probe, Sending


class TracedStreams(TracedCore, StreamBackend):
    """A stream backend inside telemetry. Sends, fetches and settlements get spans; administration does not.

    Args:
        backend: the one that does the work.
        probe: what watches it.
    """

    def __init__(self, backend: StreamBackend, probe: Probe) -> None:
        super().__init__(backend, probe)
        self._streams = backend
        self.exhausted = backend.exhausted

    def append(self, record: Record, *, timeout: float) -> asyncio.Future[Receipt]:
        """Store inside a span that ends with the receipt."""
        send = self._probe.enqueue(record)
        appending = Appending(self._streams, record, timeout, send)
        appending.start(_carrying(record, send))
        return appending.receipt

    def append_atomic(self, records: Sequence[Record], *, timeout: float) -> asyncio.Future[Sequence[Receipt]]:
        """Store a batch, each record inside a span that ends with its receipt."""
        return append_batch(self._streams, self._probe, records, timeout, _carrying)

    async def look_up(self, record: Record, *, timeout: float) -> Receipt | None:
        """Whether a record is stored; nothing is sent on its way, so no span."""
        return await self._streams.look_up(record, timeout=timeout)

    async def durability(self, monitoring: Sequence[str]) -> Kept:
        """What the server does before it says that a message is stored."""
        if isinstance(self._streams, TellsDurability):
            return await self._streams.durability(monitoring)
        return Kept("none", told=False, why="this backend does not tell")

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

    def list_streams(self, subject: str | None = None) -> AsyncIterator[StreamInfo]:
        """Every stream."""
        return self._streams.list_streams(subject)

    def list_stream_names(self, subject: str | None = None) -> AsyncIterator[str]:
        """Their names alone."""
        return self._streams.list_stream_names(subject)

    async def delete_stream(self, name: str) -> None:
        """Delete a stream."""
        await self._streams.delete_stream(name)

    async def purge_stream(self, name: str, *, subject: str | None, up_to: int | None, keep: int | None) -> int:
        """How many messages were removed."""
        return await self._streams.purge_stream(name, subject=subject, up_to=up_to, keep=keep)

    async def get_message(
        self, stream: str, *, sequence: int | None, last_of: str | None, fresh: bool = False
    ) -> StoredMessage | None:
        """One message, read straight from the stream."""
        stored = await self._streams.get_message(stream, sequence=sequence, last_of=last_of, fresh=fresh)
        return None if stored is None else replace(stored, headers=arrived(stored.headers))

    async def get_last_many(
        self, stream: str, subjects: Sequence[str], *, up_to: int | datetime | None
    ) -> AsyncIterator[StoredMessage]:
        """The last message of each subject."""
        async for stored in self._streams.get_last_many(stream, subjects, up_to=up_to):
            yield replace(stored, headers=arrived(stored.headers))

    async def get_many(
        self, stream: str, *, start: int, subject: str | None, limit: int, max_bytes: int | None
    ) -> AsyncIterator[StoredMessage]:
        """A run of messages."""
        run = self._streams.get_many(stream, start=start, subject=subject, limit=limit, max_bytes=max_bytes)
        async for stored in run:
            yield replace(stored, headers=arrived(stored.headers))

    async def counter(self, stream: str, subject: str, *, sequence: int | None = None) -> int | None:
        """The value of a counter."""
        return await self._streams.counter(stream, subject, sequence=sequence)

    async def delete_message(self, stream: str, sequence: int, *, erase: bool = False) -> bool:
        """Whether there was one."""
        return await self._streams.delete_message(stream, sequence, erase=erase)

    async def create_consumer(self, options: ConsumerOptions) -> ConsumerInfo:
        """Create a consumer."""
        return await self._streams.create_consumer(options)

    async def update_consumer(self, options: ConsumerOptions) -> ConsumerInfo:
        """Change an existing consumer."""
        return await self._streams.update_consumer(options)

    async def consumer_info(self, stream: str, name: str) -> ConsumerInfo:
        """What the server says about a consumer."""
        return await self._streams.consumer_info(stream, name)

    def list_consumers(self, stream: str) -> AsyncIterator[ConsumerInfo]:
        """Every consumer of the stream."""
        return self._streams.list_consumers(stream)

    async def delete_consumer(self, stream: str, name: str) -> None:
        """Delete a consumer."""
        await self._streams.delete_consumer(stream, name)

    def list_consumer_names(self, stream: str) -> AsyncIterator[str]:
        """Their names alone."""
        return self._streams.list_consumer_names(stream)

    async def pause_consumer(self, stream: str, name: str, *, until: datetime | None) -> bool:
        """Hand out nothing until then."""
        return await self._streams.pause_consumer(stream, name, until=until)

    async def reset_consumer(self, stream: str, name: str, *, sequence: int | None) -> int:
        """Go back, or ahead."""
        return await self._streams.reset_consumer(stream, name, sequence=sequence)

    async def unpin_consumer(self, stream: str, name: str, group: str) -> None:
        """Free a priority group."""
        await self._streams.unpin_consumer(stream, name, group)


def _carrying(record: Record, send: Sending) -> Record:
    """The record with the trace context it is sent with."""
    return structs.replace(record, headers=send.headers) if send.injected else record


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

    async def rest(self) -> None:
        """Ask for nothing for a while."""
        await self._source.rest()

    async def close(self) -> None:
        """Give back what was not fetched and stop asking."""
        await self._source.close()
