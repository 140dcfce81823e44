"""Streams and consumers, managed: ``sb.streams`` and ``sb.consumers``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.contracts.envelopes import Delivery
from broker.contracts.errors import ConfigDrift, InvalidOption
from broker.contracts.options import Ensure, StreamOptions, check_ensure, in_range
from broker.contracts.subjects import resource_name, subscribe_pattern
from broker.messages import StreamMessage
from broker.reading import NOT_ON_LOAN

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from broker.contracts.admin import ConsumerInfo, StreamInfo
    from broker.contracts.backend import StreamBackend
    from broker.contracts.codec import Codec
    from broker.contracts.envelopes import StoredMessage


class StreamAdmin:
    """What can be done to streams."""

    def __init__(self, backend: StreamBackend, codec: Codec) -> None:
        self._backend = backend
        self._codec = codec

    async def create(self, options: StreamOptions) -> StreamInfo:
        """Create it; fine when it exists exactly so.

        Raises:
            ConfigDrift: it exists with other settings.
        """
        return await self._backend.create_stream(options)

    async def update(self, options: StreamOptions) -> StreamInfo:
        """Change an existing stream.

        Raises:
            StreamNotFound: there is none.
            ApiError: the server does not allow that change.
        """
        return await self._backend.update_stream(options)

    async def ensure(self, options: StreamOptions, ensure: Ensure = "verify") -> StreamInfo | None:
        """Create what is missing; a difference raises (``"verify"``) or is brought in line (``"update"``).

        ``"bind"`` asks nothing and returns ``None``.

        Raises:
            ConfigDrift: verify, and it exists with other settings.
        """
        check_ensure(ensure)
        if not isinstance(options, StreamOptions):
            raise InvalidOption(f"a stream is declared with StreamOptions(...), not {options!r}", option="streams")
        if ensure == "bind":
            return None
        try:
            return await self._backend.create_stream(options)
        except ConfigDrift:
            if ensure == "verify":
                raise
            return await self._backend.update_stream(options)

    async def info(self, name: str) -> StreamInfo:
        """The stream as it is now; its ``config`` equals what was declared.

        Raises:
            StreamNotFound: there is none.
        """
        return await self._backend.stream_info(resource_name(name, "stream"))

    async def list(self) -> AsyncIterator[StreamInfo]:
        """Every stream, by name, fetched page by page."""
        async for info in self._backend.list_streams():
            yield info

    async def names(self) -> AsyncIterator[str]:
        """The name of every stream."""
        async for info in self._backend.list_streams():
            yield info.name

    async def purge(
        self, name: str, *, subject: str | None = None, up_to: int | None = None, keep: int | None = None
    ) -> int:
        """Remove messages; how many were.

        Args:
            name: of the stream.
            subject: only those of this pattern.
            up_to: only those below this sequence.
            keep: all but the newest so many. Not together with ``up_to``.

        Raises:
            StreamNotFound: there is none.
        """
        if up_to is not None and keep is not None:
            raise InvalidOption("purge takes up_to= or keep=, not both", option="keep")
        if subject is not None:
            subscribe_pattern(subject)
        for option, value in (("up_to", up_to), ("keep", keep)):
            if value is not None:
                in_range(option, value, 1, whole=True)
        return await self._backend.purge_stream(resource_name(name, "stream"), subject=subject, up_to=up_to, keep=keep)

    async def delete(self, name: str) -> None:
        """Remove the stream with everything in it.

        Raises:
            StreamNotFound: there is none.
        """
        await self._backend.delete_stream(resource_name(name, "stream"))

    async def get_message(self, name: str, sequence: int) -> StreamMessage | None:
        """The message with that sequence; ``None`` when there is none (any more). It cannot be settled."""
        in_range("sequence", sequence, 1, whole=True)
        stored = await self._backend.get_message(resource_name(name, "stream"), sequence=sequence, last_of=None)
        return self._message(stored)

    async def get_last(self, name: str, subject: str) -> StreamMessage | None:
        """The newest message of a subject or pattern; ``None`` when there is none. It cannot be settled."""
        pattern = subscribe_pattern(subject)
        stored = await self._backend.get_message(resource_name(name, "stream"), sequence=None, last_of=pattern)
        return self._message(stored)

    async def delete_message(self, name: str, sequence: int) -> bool:
        """Remove one message; whether there was one."""
        in_range("sequence", sequence, 1, whole=True)
        return await self._backend.delete_message(resource_name(name, "stream"), sequence)

    def _message(self, stored: StoredMessage | None) -> StreamMessage | None:
        if stored is None:
            return None
        delivery = Delivery(
            stored.subject,
            stored.data,
            stored.headers,
            stream=stored.stream,
            consumer="",
            sequence=stored.sequence,
            attempt=0,
            timestamp_ns=stored.timestamp_ns,
            pending=0,
            token=None,
        )
        return StreamMessage(delivery, self._codec, self._backend, settler=NOT_ON_LOAN)


class ConsumerAdmin:
    """What can be done to consumers."""

    def __init__(self, backend: StreamBackend) -> None:
        self._backend = backend

    async def info(self, stream: str, name: str) -> ConsumerInfo:
        """The consumer as it is now.

        Raises:
            ConsumerNotFound, StreamNotFound: there is none.
        """
        return await self._backend.consumer_info(resource_name(stream, "stream"), resource_name(name, "consumer"))

    async def list(self, stream: str) -> AsyncIterator[ConsumerInfo]:
        """Every consumer of the stream, fetched page by page."""
        async for info in self._backend.list_consumers(resource_name(stream, "stream")):
            yield info

    async def names(self, stream: str) -> AsyncIterator[str]:
        """The name of every consumer of the stream."""
        async for info in self._backend.list_consumers(resource_name(stream, "stream")):
            yield info.name

    async def delete(self, stream: str, name: str) -> None:
        """Remove the consumer and its position; a ``consume`` on it makes it again unless it is bound.

        Raises:
            ConsumerNotFound, StreamNotFound: there is none.
        """
        await self._backend.delete_consumer(resource_name(stream, "stream"), resource_name(name, "consumer"))
