"""Streams and consumers, managed: ``sb.streams`` and ``sb.consumers``."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from broker.contracts.claims import check_group
from broker.contracts.envelopes import Delivery
from broker.contracts.errors import ConfigDrift, InvalidOption
from broker.contracts.options import ConsumerOptions, Ensure, StreamOptions, check_ensure, in_range
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
            ConfigDrift: it exists with other settings; it names each field.
            LimitsExceeded: the account may have no more, or must say how large it gets.
            ApiError: the server refuses these settings, or its subjects overlap with another stream's.
        """
        return await self._backend.create_stream(_declared(options))

    async def update(self, options: StreamOptions) -> StreamInfo:
        """Change an existing stream.

        Raises:
            StreamNotFound: there is none.
            ConfigDrift: it names every field that never changes; nothing was changed.
            ApiError: the server does not allow that change.
        """
        return await self._backend.update_stream(_declared(options))

    async def ensure(self, options: StreamOptions, ensure: Ensure = "verify") -> StreamInfo | None:
        """Create what is missing; a difference raises (``"verify"``) or is brought in line (``"update"``).

        ``"bind"`` asks nothing and returns ``None``.

        Raises:
            ConfigDrift: verify, and it exists with other settings; update, and some of them never change.
        """
        check_ensure(ensure)
        _declared(options)
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

    async def list(self, subject: str | None = None) -> AsyncIterator[StreamInfo]:
        """Every stream, by name, fetched page by page; with a pattern, those that capture something of it.

        What is made or deleted meanwhile may be missed.
        """
        async for info in self._backend.list_streams(_pattern(subject)):
            yield info

    async def names(self, subject: str | None = None) -> AsyncIterator[str]:
        """The names of the same streams, which is less to fetch."""
        async for name in self._backend.list_stream_names(_pattern(subject)):
            yield name

    async def find(self, subject: str) -> str | None:
        """The name of the stream that captures the subject (or something of the pattern); ``None``: none does.

        Raises:
            InvalidOption: several capture something of the pattern.
        """
        return await self._backend.find_stream(subscribe_pattern(subject))

    async def purge(
        self, name: str, *, subject: str | None = None, up_to: int | None = None, keep: int | None = None
    ) -> int:
        """Remove messages; how many were.

        Args:
            name: of the stream.
            subject: only those of this pattern.
            up_to: only those below this sequence; past the end and without ``subject``, the next message gets it.
            keep: all but the newest so many. Not together with ``up_to``.

        Raises:
            StreamNotFound: there is none.
            InvalidOption: ``up_to`` and ``keep`` contradict, or one is out of range.
            ApiError: the stream denies it (``deny_purge``).
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

    async def get_last_many(
        self, name: str, subjects: Sequence[str], *, up_to_seq: int | None = None, up_to_time: datetime | None = None
    ) -> AsyncIterator[StreamMessage]:
        """The newest message of every subject that the patterns cover, fetched page by page; none can be settled.

        Args:
            name: of the stream.
            subjects: subjects and patterns.
            up_to_seq: as of this sequence: what came later does not count.
            up_to_time: as of this time. One of the two at most; each needs a stream with ``allow_direct``. A message
                that has been removed since is not found, nor is one before it.

        Raises:
            StreamNotFound: there is none.
            InvalidSubject, InvalidOption: at once.
            Unsupported: as of a moment, from a stream without ``allow_direct``.
        """
        up_to = _up_to(up_to_seq, up_to_time)
        if isinstance(subjects, str) or not isinstance(subjects, Sequence) or not subjects:
            raise InvalidOption(f"subjects={subjects!r}: must be a list of subjects or patterns", option="subjects")
        patterns = tuple(subscribe_pattern(each) for each in subjects)
        async for stored in self._backend.get_last_many(resource_name(name, "stream"), patterns, up_to=up_to):
            yield self._read(stored)

    async def get_many(
        self,
        name: str,
        *,
        start: int = 1,
        limit: int = 100,
        subject: str | None = None,
        max_bytes: int | None = None,
    ) -> AsyncIterator[StreamMessage]:
        """The messages from a sequence on, in order, fetched page by page; none can be settled.

        Args:
            name: of the stream.
            start: the first sequence that counts; what is not there (any more) is skipped.
            limit: so many at most.
            subject: only those of this subject or pattern.
            max_bytes: of bodies together at most; a first message that is larger comes alone.

        Raises:
            StreamNotFound: there is none.
            InvalidOption, InvalidSubject: at once; nothing was sent.
        """
        in_range("start", start, 1, whole=True)
        in_range("limit", limit, 1, whole=True)
        if max_bytes is not None:
            in_range("max_bytes", max_bytes, 1, whole=True)
        pattern, size = _pattern(subject), 0
        run = self._backend.get_many(
            resource_name(name, "stream"), start=start, subject=pattern, limit=limit, max_bytes=max_bytes
        )
        async for stored in run:
            size += len(stored.data)
            if max_bytes is not None and len(stored.data) < size > max_bytes:
                return
            yield self._read(stored)
            if max_bytes is not None and size >= max_bytes:
                return

    async def delete_message(self, name: str, sequence: int, *, no_erase: bool = True) -> bool:
        """Remove one message; whether there was one.

        Args:
            name: of the stream.
            sequence: of the message.
            no_erase: ``False`` overwrites its bytes on disk with noise first, which takes longer.

        Raises:
            StreamNotFound: there is no such stream.
            ApiError: the stream denies it (``deny_delete``).
        """
        in_range("sequence", sequence, 1, whole=True)
        if not isinstance(no_erase, bool):
            raise InvalidOption(f"no_erase={no_erase!r}: must be True or False", option="no_erase")
        return await self._backend.delete_message(resource_name(name, "stream"), sequence, erase=not no_erase)

    def _message(self, stored: StoredMessage | None) -> StreamMessage | None:
        return None if stored is None else self._read(stored)

    def _read(self, stored: StoredMessage) -> StreamMessage:
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

    async def create(self, options: ConsumerOptions) -> ConsumerInfo:
        """Create it; fine when it exists exactly so (where it starts is not compared).

        Raises:
            ConfigDrift: it exists with other settings; it names each field.
            NoStream, StreamNotFound: there is no stream for it.
            LimitsExceeded: the stream or the account may have no more.
            ApiError: the server refuses these settings.
        """
        return await self._backend.create_consumer(_asked(options))

    async def update(self, options: ConsumerOptions) -> ConsumerInfo:
        """Change an existing consumer; its position stays, and so does what is left at ``None`` or empty.

        Raises:
            ConsumerNotFound, StreamNotFound: there is none.
            ConfigDrift: it names every field that never changes; nothing was changed.
            ApiError: the server does not allow that change.
        """
        if _asked(options).durable is None and options.queue is None:
            raise InvalidOption("update needs durable= or queue=: which consumer?", option="durable")
        return await self._backend.update_consumer(options)

    async def ensure(self, options: ConsumerOptions, ensure: Ensure = "verify") -> ConsumerInfo | None:
        """Create what is missing; a difference raises (``"verify"``) or is brought in line (``"update"``).

        ``"bind"`` asks nothing and returns ``None``. ``options.ensure`` is not looked at.

        Raises:
            ConfigDrift: verify, and it exists with other settings; update, and some of them never change.
        """
        check_ensure(ensure)
        _asked(options)
        if ensure == "bind":
            return None
        try:
            return await self._backend.create_consumer(options)
        except ConfigDrift:
            if ensure == "verify":
                raise
            return await self._backend.update_consumer(options)

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
        """The name of every consumer of the stream, which is less to fetch."""
        async for name in self._backend.list_consumer_names(resource_name(stream, "stream")):
            yield name

    async def delete(self, stream: str, name: str) -> None:
        """Remove the consumer and its position; a ``consume`` on it makes it again unless it is bound.

        Raises:
            ConsumerNotFound, StreamNotFound: there is none.
        """
        await self._backend.delete_consumer(resource_name(stream, "stream"), resource_name(name, "consumer"))

    async def pause(self, stream: str, name: str, until: datetime) -> bool:
        """Hand out nothing until then, to anybody; whether it is paused now (``False``: that moment is over).

        What is in hand can still be settled. It goes on by itself, or with ``resume``.

        Raises:
            ConsumerNotFound, StreamNotFound: there is none.
            InvalidOption: ``until`` is no time with a time zone.
        """
        _check_time("until", until)
        names = resource_name(stream, "stream"), resource_name(name, "consumer")
        return await self._backend.pause_consumer(*names, until=until)

    async def resume(self, stream: str, name: str) -> None:
        """Go on at once; fine when it was not paused.

        Raises:
            ConsumerNotFound, StreamNotFound: there is none.
        """
        names = resource_name(stream, "stream"), resource_name(name, "consumer")
        await self._backend.pause_consumer(*names, until=None)

    async def reset(self, stream: str, name: str, sequence: int | None = None) -> int:
        """Hand out again everything from a sequence on, settled or not; the sequence it is at now.

        Args:
            stream: the stream's name.
            name: the consumer's.
            sequence: where to go, back or ahead, but not before where the consumer starts; ``None``: to the first
                message that is not settled, so that what is in other hands comes again at once.

        Raises:
            ConsumerNotFound, StreamNotFound: there is none.
            ApiError: it may not go there (err_code 10204).
        """
        if sequence is not None:
            in_range("sequence", sequence, 1, whole=True)
        names = resource_name(stream, "stream"), resource_name(name, "consumer")
        return await self._backend.reset_consumer(*names, sequence=sequence)

    async def unpin(self, stream: str, name: str, group: str) -> None:
        """Take a priority group from the worker that has it alone; the next one that asks gets it.

        Raises:
            ConsumerNotFound, StreamNotFound: there is none.
            ApiError: it has no such group, or is not ``pinned_client``.
        """
        check_group("group", group)
        await self._backend.unpin_consumer(resource_name(stream, "stream"), resource_name(name, "consumer"), group)


def _declared(options: object) -> StreamOptions:
    if not isinstance(options, StreamOptions):
        hint = "; several: declare(*streams)" if isinstance(options, list | tuple) else ""
        told = f"a stream is declared with StreamOptions(...), not {type(options).__name__} {options!r:.60}{hint}"
        raise InvalidOption(told, option="streams")
    return options.promising_nothing()


def _asked(options: object) -> ConsumerOptions:
    if not isinstance(options, ConsumerOptions):
        raise InvalidOption(f"a consumer is made with ConsumerOptions(...), not {options!r}", option="options")
    return options


def _pattern(subject: str | None) -> str | None:
    return None if subject is None else subscribe_pattern(subject)


def _up_to(sequence: int | None, time: datetime | None) -> int | datetime | None:
    if sequence is not None and time is not None:
        raise InvalidOption("up_to_seq= and up_to_time= contradict: give one of them", option="up_to_time")
    if sequence is not None:
        in_range("up_to_seq", sequence, 1, whole=True)
        return sequence
    if time is not None:
        _check_time("up_to_time", time)
    return time


def _check_time(option: str, time: object) -> None:
    if not isinstance(time, datetime) or time.tzinfo is None:
        raise InvalidOption(f"{option}={time!r}: must be a datetime with a time zone", option=option)
