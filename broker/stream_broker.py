"""``StreamBroker``: adds the stream tier. Stored first, redelivered until settled."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast, final

from broker.administration import ConsumerAdmin, StreamAdmin
from broker.broker import Broker
from broker.consumer_builder import Subjects, patterns, worker
from broker.consuming import Consumption
from broker.contracts.envelopes import Entry
from broker.contracts.errors import InvalidOption, Unsupported
from broker.contracts.options import (
    ConsumeOptions,
    ConsumerOptions,
    Ensure,
    Start,
    StreamOptions,
    check_ensure,
    in_range,
)
from broker.dead_letters import DeadLetters, DeadLetterWriter
from broker.enqueueing import Enqueuer
from broker.handling import check_handler
from broker.pulling import Puller
from broker.reading import Reader, Until

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from broker.contracts.backend import CoreBackend, StreamBackend
    from broker.contracts.codec import Codec
    from broker.contracts.envelopes import Expect, Receipt
    from broker.contracts.failure import OnErrors
    from broker.contracts.headers import HeadersLike
    from broker.messages import StreamMessage


class StreamBroker(Broker):
    """At-least-once messaging over the same connection. It adds verbs and overrides none.

    Attributes:
        streams: create, change, look at and purge streams.
        consumers: look at and delete consumers.
        dead_letters: what gave up: list, replay, discard.
    """

    def __init__(self, backend: StreamBackend | CoreBackend, *, codec: Codec | None = None) -> None:
        super().__init__(backend, codec=codec)
        if not hasattr(backend, "append"):
            raise Unsupported("this backend has no streams; use Broker")
        self._streams = cast("StreamBackend", backend)
        self._enqueuer = Enqueuer(self._streams, self._codec)
        self.streams = StreamAdmin(self._streams, self._codec)
        self.consumers = ConsumerAdmin(self._streams)
        self.dead_letters = DeadLetters(self._streams, self._enqueuer, self._codec)

    @final
    async def declare(self, *streams: StreamOptions, ensure: Ensure = "verify") -> None:
        """Make sure of streams: created when missing.

        Args:
            streams: what must be there.
            ensure: ``"verify"`` raises on a difference, ``"update"`` brings the server in line, ``"bind"`` asks
                nothing.

        Raises:
            ConfigDrift: verify, and one exists with other settings; it names each field.
            ConnectionLost, BrokerClosed, PermissionDenied, ApiError.
        """
        check_ensure(ensure)
        self._lifetime.check_loop()
        for options in streams:
            await self.streams.ensure(options, ensure)

    @final
    async def enqueue(
        self,
        subject: str,
        body: Any,
        *,
        idempotency_key: str | None = None,
        ordering_key: str | None = None,
        headers: HeadersLike | None = None,
        ttl: float | None = None,
        expect: Expect | None = None,
        timeout: float = 15.0,
    ) -> Receipt:
        """Store a message; returned means stored by the server, to the stream's durability.

        The same id is sent again through time-outs, elections and reconnects until the server answers.

        Args:
            subject: one that a stream captures.
            body: bytes, or anything the codec encodes.
            idempotency_key: a repeat of the same key on the same subject within the stream's duplicate window is
                dropped, and ``receipt.duplicate`` says so. Generated when ``None``.
            ordering_key: carried along for ordered consumers.
            headers: application headers.
            ttl: whole seconds after which the server may drop it.
            expect: what must hold for it to be stored.
            timeout: seconds, all attempts together.

        Raises:
            NoStream, StreamFull, SequenceConflict, PayloadTooLarge, PermissionDenied, ApiError: not stored.
            EnqueueUnknown: no word in time; enqueue again with the same key (the error carries it).
            InvalidSubject, InvalidKey, InvalidHeader, InvalidOption, EncodeError: at once; nothing was sent.
            BrokerClosed, Unauthorized.
        """
        self._lifetime.check_loop()
        entry = Entry(subject, body, idempotency_key, ordering_key, headers, ttl, expect)
        return await self._enqueuer.enqueue(entry, timeout)

    @final
    async def enqueue_many(
        self, entries: Iterable[Entry], *, window: int = 1024, timeout: float = 30.0
    ) -> list[Receipt]:
        """Store many, pipelined; receipts in the order given.

        Args:
            entries: may be lazy; never more than ``window`` are taken ahead of the server's answers.
            window: in flight at most.
            timeout: seconds, all together.

        Raises:
            EnqueueManyError: some failed; every entry was tried. Holds receipts and errors by index.
        """
        self._lifetime.check_loop()
        if not isinstance(entries, Iterable):
            raise InvalidOption(f"entries={entries!r}: must be an iterable of Entry", option="entries")
        return await self._enqueuer.enqueue_many(entries, window=window, timeout=timeout)

    @final
    async def consume(
        self,
        subject: Subjects,
        handler: Callable[[StreamMessage], Any] | Callable[[list[StreamMessage]], Any],
        *,
        queue: str | None = None,
        durable: str | None = None,
        max_ack_pending: int = 256,
        ack_wait: float = 30.0,
        concurrency: int = 16,
        max_deliver: int = 5,
        backoff: Sequence[float] = (1.0, 5.0, 30.0, 120.0),
        dead_letter: bool = True,
        auto_extend: bool = True,
        ordered: bool = False,
        stream: str | None = None,
        ensure: Ensure = "verify",
        metadata: Mapping[str, str] | None = None,
        headers_only: bool = False,
        on_error: OnErrors | None = None,
        pause_for: float = 10.0,
        batch_size: int | None = None,
        batch_timeout: float = 1.0,
    ) -> Consumption:
        """Work through stored messages: a handler that returns acks, one that raises gives back with backoff.

        Args:
            subject: a subject or pattern that one stream captures, or several that do not overlap.
            handler: ``async def`` (``concurrency`` at once) or a plain function (inline; it must not block).
            queue: the workers who share the work.
            durable: the stored position. Either alone is enough; with neither, an unnamed position is forgotten
                after the worker is gone.
            max_ack_pending: unsettled messages in the whole group at most.
            ack_wait: seconds until an unsettled message is handed out again; extended while a handler runs.
            concurrency: ``async def`` handlers at once in this process.
            max_deliver: attempts before a message is dead-lettered.
            backoff: seconds before each further attempt; the last one repeats.
            dead_letter: keep what gave up in ``dead_letters``.
            auto_extend: extend ``ack_wait`` while a message is in hand.
            ordered: per-key order; not available in this version.
            stream: its name; looked up by subject when ``None`` (needed with ``ensure="bind"`` where the role may
                not look up).
            ensure: ``"verify"`` creates the consumer or raises on a difference, ``"update"`` brings it in line,
                ``"bind"`` touches no management API.
            metadata: free names and values kept with the consumer.
            headers_only: deliver no bodies; an empty body is what handlers see.
            on_error: what becomes of a message by its handler's exception: ``{ValueError: "dead_letter", Busy: "retry",
                Gone: "drop", DatabaseDown: "pause"}``; the most specific class wins, the others are retried.
            pause_for: seconds of a ``"pause"``; the message stays in hand and the same attempt is made again.
            batch_size: the handler gets a list of up to so many messages; returning acks those it did not settle,
                raising settles them as failed. ``concurrency`` counts batches then.
            batch_timeout: seconds after its first message within which a batch that is not full is handed over.

        Raises:
            NoStream: no stream captures the subject.
            ConfigDrift: the consumer exists with other settings; it names each field.
            ConsumerNotFound: bind only, and it does not exist.
            InvalidSubject, InvalidOption: at once.
            ConnectionLost, BrokerClosed, PermissionDenied, ApiError.
        """
        self._lifetime.check_open()
        check_handler(handler)
        if ordered:
            raise Unsupported("consume(ordered=True) is not available in this version")
        options = ConsumeOptions(
            concurrency=concurrency,
            max_deliver=max_deliver,
            backoff=backoff,
            dead_letter=dead_letter,
            auto_extend=auto_extend,
            on_error={} if on_error is None else on_error,
            pause_for=pause_for,
            batch_size=batch_size,
            batch_timeout=batch_timeout,
        )
        consumer = worker(
            subject,
            queue=queue,
            durable=durable,
            stream=stream,
            max_ack_pending=max_ack_pending,
            ack_wait=ack_wait,
            ensure=ensure,
            metadata=metadata,
            headers_only=headers_only,
        )
        if batch_size is not None and batch_size > max_ack_pending:
            told = f"batch_size={batch_size} is more than max_ack_pending={max_ack_pending}: it would never be full"
            raise InvalidOption(told, option="batch_size")
        letters = DeadLetterWriter(self._streams, self._enqueuer, create=ensure != "bind") if dead_letter else None
        consumption = Consumption(
            handler,
            consumer=consumer,
            options=options,
            backend=self._streams,
            codec=self._codec,
            letters=letters,
            forget=self._roster.drainables.discard,
        )
        await consumption.start()
        self._roster.drainables.add(consumption)
        return consumption

    @final
    def pull(
        self,
        subject: Subjects,
        *,
        queue: str | None = None,
        durable: str | None = None,
        batch: int = 100,
        max_ack_pending: int = 1000,
        ack_wait: float = 30.0,
        stream: str | None = None,
        ensure: Ensure = "verify",
        metadata: Mapping[str, str] | None = None,
        headers_only: bool = False,
    ) -> Puller:
        """Take stored messages on demand, inside ``async with``; you settle every one.

        Args:
            subject: see ``consume``.
            queue: see ``consume``.
            durable: see ``consume``.
            batch: messages ``async for`` asks for at a time.
            max_ack_pending: see ``consume``.
            ack_wait: see ``consume``; nothing is extended for you.
            stream: see ``consume``.
            ensure: see ``consume``.
            metadata: see ``consume``.
            headers_only: see ``consume``.

        Raises:
            InvalidSubject, InvalidOption: at once; the rest of what ``consume`` raises on entering.
        """
        in_range("batch", batch, 1, whole=True)
        consumer = worker(
            subject,
            queue=queue,
            durable=durable,
            stream=stream,
            max_ack_pending=max_ack_pending,
            ack_wait=ack_wait,
            ensure=ensure,
            metadata=metadata,
            headers_only=headers_only,
        )
        return Puller(
            consumer,
            batch=batch,
            backend=self._streams,
            codec=self._codec,
            register=self._roster.drainables.add,
            forget=self._roster.drainables.discard,
        )

    @final
    def read(
        self, subject: Subjects, *, start: Start = "first", until: Until = None, stream: str | None = None
    ) -> Reader:
        """Read stored messages in order and without gaps, inside ``async with``; nothing is settled.

        Args:
            subject: see ``consume``.
            start: ``"first"``, ``"last"``, ``"new"``, ``"last_per_subject"``, a sequence, or a time.
            until: the last sequence to read, the time to stop at, ``"end"`` for what is stored now, or ``None`` to
                follow for ever.
            stream: its name; looked up by subject when ``None``.

        Raises:
            InvalidSubject, InvalidOption: at once.
            NoStream: on entering, when no stream captures the subject.
        """
        options = ConsumerOptions(filters=patterns(subject), stream=stream, acks=False, start=start)
        return Reader(options, until, backend=self._streams, codec=self._codec)
