"""A connection to a memory hub: the core tier and the streams."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from broker.backends.memory.consumers import change_consumer, create_consumer, open_consumer
from broker.backends.memory.core import MemoryCore
from broker.backends.memory.outbox import Batch, Posting
from broker.backends.memory.source import MemorySource
from broker.backends.memory.wire import check_payload, record_headers
from broker.contracts.backend import StreamBackend
from broker.contracts.durability import Kept
from broker.contracts.envelopes import Receipt
from broker.contracts.errors import ApiError, BrokerClosed, NoResponders, NoStream, PayloadTooLarge
from broker.contracts.lanes import OURS
from broker.contracts.subjects import publish_subject

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from datetime import datetime

    from broker.backends.memory.hub import MemoryHub
    from broker.backends.memory.stream import MemoryStream
    from broker.contracts.admin import ConsumerInfo, StreamInfo
    from broker.contracts.backend import DeliverySource
    from broker.contracts.envelopes import Record, StoredMessage
    from broker.contracts.options import ConsumerOptions, StreamOptions


class MemoryBackend(MemoryCore, StreamBackend):
    """Everything a broker does, in this process.

    Args:
        hub: what it is connected to.
        inbox_prefix: first tokens of reply subjects.
        outbound_limit: bytes of core messages sent within one loop turn at most; the oldest beyond it are dropped.
        echo: whether its own messages come back to its own subscriptions.
    """

    def __init__(
        self, hub: MemoryHub, *, inbox_prefix: str = "_INBOX", outbound_limit: int = 8 << 20, echo: bool = True
    ) -> None:
        super().__init__(hub, inbox_prefix=inbox_prefix, outbound_limit=outbound_limit, echo=echo)
        self._sources: set[MemorySource] = set()

    def append(self, record: Record, *, timeout: float) -> asyncio.Future[Receipt]:
        """Store a message on the loop's next turn.

        Raises:
            BrokerClosed: here, not in the future: nothing was sent.
        """
        self._check_open()
        receipt: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        headers = record_headers(record)
        try:
            if not record.subject.startswith(OURS):  # ours may be longer than callers' subjects
                publish_subject(record.subject)
            check_payload(record.subject, record.data, headers, self._hub.max_payload)
        except PayloadTooLarge as exc:
            asyncio.get_running_loop().call_soon(_fail, receipt, exc)
            return receipt
        if not self.outbox:
            self._hub.collect(self.outbox)
        self.outbox.post(Posting(record, headers, receipt, timeout))
        return receipt

    def append_atomic(self, records: Sequence[Record], *, timeout: float) -> asyncio.Future[Sequence[Receipt]]:
        """Store all or nothing on the loop's next turn.

        Raises:
            BrokerClosed: here, not in the future: nothing was sent.
        """
        self._check_open()
        receipts: asyncio.Future[Sequence[Receipt]] = asyncio.get_running_loop().create_future()
        headers = [record_headers(record) for record in records]
        try:
            for record, each in zip(records, headers, strict=True):
                check_payload(publish_subject(record.subject), record.data, each, self._hub.max_payload)
        except PayloadTooLarge as exc:
            asyncio.get_running_loop().call_soon(_fail, receipts, exc)
            return receipts
        if not self.outbox:
            self._hub.collect(self.outbox)
        self.outbox.post(Batch(records, headers, receipts, timeout))
        return receipts

    async def look_up(self, record: Record, *, timeout: float) -> Receipt | None:  # noqa: ARG002 - nothing to wait for
        """The receipt of the record's first copy, when its id was stored within the duplicate window."""
        await self._arrive()
        stream, _ = self._hub.streams.taking(record)
        if stream is None:
            raise NoResponders(f"no stream captures {record.subject!r}", subject=record.subject)
        first = stream.first_copy(record.message_id)
        return None if first is None else Receipt(stream.name, first, duplicate=True)

    async def durability(self, monitoring: Sequence[str]) -> Kept:
        """Nothing of what is stored here outlives this process, whatever its options say."""
        del monitoring
        return Kept("none", told=True, why="a twin in memory ends with this process; it is for tests")

    async def find_stream(self, subject: str) -> str | None:
        """The first stream, by name, that captures something the subject or pattern covers, as the server answers."""
        await self._arrive()
        stream = self._hub.streams.overlapping(subject)
        return stream.name if stream is not None else None

    async def open_consumer(self, options: ConsumerOptions) -> DeliverySource:
        """Make sure of the consumer as ``options.ensure`` says, and a source on it."""
        await self._arrive()
        consumer = open_consumer(self._stream_for(options), options)
        source = MemorySource(
            self._hub.streams, consumer, check_connected=self._check_open, closed=self._sources.discard
        )
        self._sources.add(source)
        return source

    async def create_stream(self, options: StreamOptions) -> StreamInfo:
        """Create it; fine when it exists exactly so."""
        await self._arrive()
        return self._hub.streams.create(options).info()

    async def update_stream(self, options: StreamOptions) -> StreamInfo:
        """Change an existing stream."""
        await self._arrive()
        return self._hub.streams.update(options).info()

    async def stream_info(self, name: str) -> StreamInfo:
        """Raises ``StreamNotFound`` when there is none."""
        return (await self._find(name)).info()

    async def list_streams(self, subject: str | None = None) -> AsyncIterator[StreamInfo]:
        """Every stream (that captures something of the pattern), by name."""
        async for name in self.list_stream_names(subject):
            stream = self._hub.streams.get(name)
            if stream is not None:
                yield stream.info()

    async def list_stream_names(self, subject: str | None = None) -> AsyncIterator[str]:
        """Their names alone."""
        await self._arrive()
        for name in self._hub.streams.names(subject):
            yield name

    async def delete_stream(self, name: str) -> None:
        """Raises ``StreamNotFound`` when there is none."""
        await self._arrive()
        self._hub.streams.delete(name)

    async def purge_stream(self, name: str, *, subject: str | None, up_to: int | None, keep: int | None) -> int:
        """How many messages were removed; ``up_to`` and ``keep`` together are refused, as by the server."""
        return (await self._find(name)).purge(subject, up_to, keep)

    async def get_message(
        self, stream: str, *, sequence: int | None, last_of: str | None, fresh: bool = False
    ) -> StoredMessage | None:
        """The message with that sequence, or the last one of that pattern; ``None`` when there is none."""
        del fresh  # there is one copy
        return (await self._find(stream)).read(sequence, last_of)

    async def counter(self, stream: str, subject: str, *, sequence: int | None = None) -> int | None:
        """The value of the subject's counter, now or right after an addition; ``None`` when there is none."""
        found = await self._find(stream)
        if not found.options.counters:
            return None
        return found.counter(subject) if sequence is None else found.counted(sequence)

    async def get_last_many(
        self, stream: str, subjects: Sequence[str], *, up_to: int | datetime | None
    ) -> AsyncIterator[StoredMessage]:
        """The last message of each subject that the patterns cover, as of a sequence, a time or now."""
        found = await self._find(stream)
        for message in found.last_of_each(subjects, up_to):
            yield message

    async def get_many(
        self, stream: str, *, start: int, subject: str | None, limit: int, max_bytes: int | None
    ) -> AsyncIterator[StoredMessage]:
        """At most ``limit`` messages (of the pattern) from a sequence on."""
        del max_bytes  # nothing is on its way here
        for message in (await self._find(stream)).run(start, subject, limit):
            yield message

    async def delete_message(self, stream: str, sequence: int, *, erase: bool = False) -> bool:  # noqa: ARG002 - memory keeps no bytes to overwrite
        """Whether there was one."""
        return (await self._find(stream)).delete(sequence)

    async def create_consumer(self, options: ConsumerOptions) -> ConsumerInfo:
        """Create it; fine when it exists exactly so."""
        await self._arrive()
        return create_consumer(self._stream_for(options), options).info()

    async def update_consumer(self, options: ConsumerOptions) -> ConsumerInfo:
        """Change an existing consumer."""
        await self._arrive()
        return change_consumer(self._stream_for(options), options).info()

    async def consumer_info(self, stream: str, name: str) -> ConsumerInfo:
        """Raises ``ConsumerNotFound`` (or ``StreamNotFound``) when there is none."""
        found = await self._find(stream)
        found.expire()
        return found.find_consumer(name).info()

    async def list_consumers(self, stream: str) -> AsyncIterator[ConsumerInfo]:
        """Every consumer of the stream, by name."""
        found = await self._find(stream)
        found.expire()
        for name in sorted(found.consumers):
            consumer = found.consumers.get(name)
            if consumer is not None:
                yield consumer.info()

    async def list_consumer_names(self, stream: str) -> AsyncIterator[str]:
        """Their names alone."""
        for name in sorted((await self._find(stream)).consumers):
            yield name

    async def delete_consumer(self, stream: str, name: str) -> None:
        """Raises ``ConsumerNotFound`` (or ``StreamNotFound``) when there is none."""
        (await self._find(stream)).delete_consumer(name)

    async def pause_consumer(self, stream: str, name: str, *, until: datetime | None) -> bool:
        """Hand out nothing until then (``None``: go on at once); whether it is paused now."""
        return (await self._find(stream)).find_consumer(name).hold(until)

    async def reset_consumer(self, stream: str, name: str, *, sequence: int | None) -> int:
        """Go back, or ahead, to a sequence; where it is now."""
        return (await self._find(stream)).find_consumer(name).reset(sequence)

    async def unpin_consumer(self, stream: str, name: str, group: str) -> None:
        """There are no priority groups here."""
        (await self._find(stream)).find_consumer(name)
        raise ApiError(f"consumer {name!r} has no priority group {group!r}", code=400, err_code=10160, stream=stream)

    async def close(self) -> None:
        """Release everything; a fetch that waits fails with ``BrokerClosed``. Idempotent."""
        for source in tuple(self._sources):
            source.release(BrokerClosed())
        await super().close()

    async def _arrive(self) -> None:
        """What every call to a server does: take a moment, in which what was sent before is carried."""
        self._check_open()
        await asyncio.sleep(0)
        self._check_open()

    async def _find(self, name: str) -> MemoryStream:
        await self._arrive()
        return self._hub.streams.find(name)

    def _stream_for(self, options: ConsumerOptions) -> MemoryStream:
        if options.stream is not None:
            return self._hub.streams.find(options.stream)
        stream = self._hub.streams.overlapping(options.filters[0])
        if stream is None:
            raise NoStream(
                f"no stream captures {options.filters[0]!r}; declare one whose subjects match it",
                subject=options.filters[0],
            )
        return stream


def _fail(receipt: asyncio.Future[Any], error: Exception) -> None:
    if not receipt.done():
        receipt.set_exception(error)
