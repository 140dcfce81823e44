"""``StreamBroker``: adds the stream tier. Stored first, redelivered until settled."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast, final

from broker.administration import ConsumerAdmin, StreamAdmin
from broker.broker import Broker
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
from broker.contracts.subjects import subscribe_pattern
from broker.dead_letters import DeadLetters, DeadLetterWriter
from broker.enqueueing import Enqueuer
from broker.handling import check_handler
from broker.lanes.ordered import OrderedConsumption
from broker.pulling import Puller
from broker.reading import Reader, Until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from broker.contracts.backend import CoreBackend, StreamBackend
    from broker.contracts.codec import Codec
    from broker.contracts.envelopes import Expect, Receipt
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
            ordering_key: messages with the same key are handled one after the other, in the order stored, by
                ``consume(ordered=True)`` on a stream with lanes; on others it is only carried along.
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
        subject: str,
        handler: Callable[[StreamMessage], Any],
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
    ) -> Consumption:
        """Work through stored messages: a handler that returns acks, one that raises gives back with backoff.

        Args:
            subject: a subject or pattern that one stream captures.
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
            ordered: handle the messages of one ``ordering_key`` in their order, keys side by side, over any number of
                workers of the queue; needs a stream with ``lanes``. One message of a lane is unsettled at a time, and
                ``max_ack_pending`` has no meaning. One that fails holds up its own key only.
            stream: its name; looked up by subject when ``None`` (needed with ``ensure="bind"`` where the role may
                not look up).
            ensure: ``"verify"`` creates the consumer or raises on a difference, ``"update"`` brings it in line,
                ``"bind"`` touches no management API.

        Raises:
            NoStream: no stream captures the subject.
            ConfigDrift: the consumer exists with other settings; it names each field.
            ConsumerNotFound: bind only, and it does not exist.
            InvalidSubject, InvalidOption: at once; also ``ordered`` without a name, or on a stream without lanes.
            ConnectionLost, BrokerClosed, PermissionDenied, ApiError.
        """
        self._lifetime.check_open()
        check_handler(handler)
        options = ConsumeOptions(
            concurrency=concurrency,
            max_deliver=max_deliver,
            backoff=backoff,
            dead_letter=dead_letter,
            auto_extend=auto_extend,
        )
        consumer = _consumer_options(
            subject,
            queue=queue,
            durable=durable,
            stream=stream,
            max_ack_pending=max_ack_pending,
            ack_wait=ack_wait,
            ensure=ensure,
        )
        letters = DeadLetterWriter(self._streams, self._enqueuer, create=ensure != "bind") if dead_letter else None
        consumption: Consumption
        if ordered:
            consumption = OrderedConsumption(
                handler,
                consumer=consumer,
                options=options,
                backend=self._streams,
                codec=self._codec,
                enqueuer=self._enqueuer,
                dead_letters=self.dead_letters,
                letters=letters,
                forget=self._roster.drainables.discard,
            )
        else:
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
        subject: str,
        *,
        queue: str | None = None,
        durable: str | None = None,
        batch: int = 100,
        max_ack_pending: int = 1000,
        ack_wait: float = 30.0,
        stream: str | None = None,
        ensure: Ensure = "verify",
    ) -> Puller:
        """Take stored messages on demand, inside ``async with``; you settle every one.

        Args:
            subject: a subject or pattern that one stream captures.
            queue: see ``consume``.
            durable: see ``consume``.
            batch: messages ``async for`` asks for at a time.
            max_ack_pending: see ``consume``.
            ack_wait: see ``consume``; nothing is extended for you.
            stream: see ``consume``.
            ensure: see ``consume``.

        Raises:
            InvalidSubject, InvalidOption: at once; the rest of what ``consume`` raises on entering.
        """
        in_range("batch", batch, 1, whole=True)
        consumer = _consumer_options(
            subject,
            queue=queue,
            durable=durable,
            stream=stream,
            max_ack_pending=max_ack_pending,
            ack_wait=ack_wait,
            ensure=ensure,
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
    def read(self, subject: str, *, start: Start = "first", until: Until = None, stream: str | None = None) -> Reader:
        """Read stored messages in order and without gaps, inside ``async with``; nothing is settled.

        Args:
            subject: a subject or pattern that one stream captures.
            start: ``"first"``, ``"last"``, ``"new"``, ``"last_per_subject"``, a sequence, or a time.
            until: the last sequence to read, the time to stop at, ``"end"`` for what is stored now, or ``None`` to
                follow for ever.
            stream: its name; looked up by subject when ``None``.

        Raises:
            InvalidSubject, InvalidOption: at once.
            NoStream: on entering, when no stream captures the subject.
        """
        options = ConsumerOptions(filters=(subscribe_pattern(subject),), stream=stream, acks=False, start=start)
        return Reader(options, until, backend=self._streams, codec=self._codec)


def _consumer_options(
    subject: str,
    *,
    queue: str | None,
    durable: str | None,
    stream: str | None,
    max_ack_pending: int,
    ack_wait: float,
    ensure: Ensure,
) -> ConsumerOptions:
    """One builder for every way to consume."""
    check_ensure(ensure)
    if ensure == "bind" and durable is None and queue is None:
        raise InvalidOption("ensure='bind' needs durable= or queue=: there is nothing to bind to", option="durable")
    return ConsumerOptions(
        durable=durable or queue,
        queue=queue or durable,
        filters=(subscribe_pattern(subject),),
        stream=stream,
        max_ack_pending=max_ack_pending,
        ack_wait=ack_wait,
        ensure=ensure,
    )
