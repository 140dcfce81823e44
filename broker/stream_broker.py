"""``StreamBroker``: adds the stream tier. Stored first, redelivered until settled."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast, final

from broker.administration import ConsumerAdmin, StreamAdmin
from broker.contracts.envelopes import Entry
from broker.contracts.errors import InvalidOption, Unsupported
from broker.contracts.options import Ensure, StreamOptions, check_ensure
from broker.dead_letters import DeadLetters
from broker.enqueueing import Enqueuer
from broker.stream_consumer import StreamConsumer

if TYPE_CHECKING:
    from broker.contracts.backend import CoreBackend, StreamBackend
    from broker.contracts.codec import Codec
    from broker.contracts.envelopes import Expect, Receipt
    from broker.contracts.headers import HeadersLike


class StreamBroker(StreamConsumer):
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
