"""``StreamBroker``: adds the stream tier. Stored first, redelivered until settled."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast, final

from broker.administration import ConsumerAdmin, StreamAdmin
from broker.contracts.envelopes import Entry
from broker.contracts.errors import InvalidOption, Unsupported
from broker.contracts.key_value import BucketOptions
from broker.contracts.options import Ensure, StreamOptions, check_ensure
from broker.counting import Counting
from broker.dead_letters import DeadLetters
from broker.durability import proven
from broker.enqueueing import Enqueuer
from broker.eventing import Eventing
from broker.key_value.bucket import KeyValue
from broker.key_value.buckets import BucketAdmin
from broker.keys import derived_secret
from broker.publishing import Publishing
from broker.quality.journaling import Journaling
from broker.quality.sending import Sender
from broker.scheduling import Scheduler

if TYPE_CHECKING:
    from broker.contracts.backend import CoreBackend, StreamBackend
    from broker.contracts.codec import Codec
    from broker.contracts.envelopes import Expect, Receipt
    from broker.contracts.headers import HeadersLike
    from broker.durability import Unproven


class StreamBroker(Eventing, Publishing):
    """At-least-once messaging over the same connection. It adds verbs and overrides none.

    Attributes:
        streams: create, change, look at, read and purge streams.
        consumers: create, change, look at, pause, set back and delete consumers.
        dead_letters: what gave up: list, replay, discard, sweep.
        buckets: look at, list and delete buckets of keys.
    """

    def __init__(
        self,
        backend: StreamBackend | CoreBackend,
        *,
        codec: Codec | None = None,
        id_secret: str | bytes | None = None,
    ) -> None:
        if not isinstance(backend, str) and not hasattr(backend, "append"):
            raise Unsupported("this backend has no streams; use Broker")
        super().__init__(backend, codec=codec)
        self._streams = cast("StreamBackend", backend)
        secret = b"" if id_secret is None else derived_secret(id_secret)
        self._enqueuer = Enqueuer(self._streams, self._codec, secret)
        self._scheduler = Scheduler(self._streams, self._enqueuer)
        self._counting = Counting(self._streams, self._enqueuer)
        self._journaling = Journaling(self, lambda: self._address, self._roster.drainables.add)
        self._sender = Sender(self._streams, self._codec, self._enqueuer, self._journaling, self._roster)
        self.streams = StreamAdmin(self._streams, self._codec)
        self.consumers = ConsumerAdmin(self._streams)
        self.dead_letters = DeadLetters(self._streams, self._enqueuer, self._codec)
        self.buckets = BucketAdmin(self.streams)

    @classmethod
    def _keyed(cls, id_secret: str | bytes) -> dict[str, Any]:
        derived_secret(id_secret)
        return {"id_secret": id_secret}

    @final
    async def declare(
        self,
        *streams: StreamOptions,
        ensure: Ensure = "verify",
        monitoring: str | Sequence[str] | None = None,
        unproven: Unproven = "refuse",
    ) -> None:
        """Make sure of streams: created when missing.

        Args:
            streams: what must be there.
            ensure: ``"verify"`` raises on a difference, ``"update"`` brings the server in line, ``"bind"`` asks
                nothing but the pages of ``monitoring``.
            monitoring: of streams with a ``durability``: the monitoring URLs of their servers (``http://host:8222``),
                where alone a NATS server tells what it does; ``None`` takes ``NATS_MONITORING``.
            unproven: when a ``durability`` is not there, or nobody could say that it is: ``"refuse"`` makes nothing,
                ``"warn"`` says so in the log.

        Raises:
            ConfigDrift: verify, and one exists with other settings; it names each field. Or a ``durability`` that is
                not proven, whatever is to be ensured.
            ConnectionLost, BrokerClosed, PermissionDenied, ApiError.
        """
        check_ensure(ensure)
        self._lifetime.check_loop()
        for options in await proven(
            streams, self._streams, ask=ensure != "bind", monitoring=monitoring, unproven=unproven
        ):
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
                ``consume(ordered=True)`` on a stream with lanes. One without takes it, only carries it along as a
                header, and keeps no order by it; ``consume(ordered=True)`` is refused there.
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
    async def key_value(
        self,
        bucket: str,
        *,
        history: int = 10,
        ttl: float | None = None,
        max_bytes: int | None = None,
        max_value_size: int | None = None,
        storage: Literal["file", "memory"] = "file",
        replicas: int = 1,
        marker_ttl: float | None = 5.0,
        description: str = "",
        ensure: Ensure = "verify",
    ) -> KeyValue:
        """Keys with values and revisions, in a bucket that is made when it is missing.

        Args:
            bucket: its name, 1 to 250 of ``A-Z a-z 0-9 _ -``.
            history: revisions kept per key, 1 to 64.
            ttl: seconds every value lives; a key's own ``ttl`` may end it sooner.
            max_bytes: bytes of everything stored; a full bucket refuses (``StreamFull``).
            max_value_size: bytes of one value at most (``PayloadTooLarge``); see ``BucketOptions``.
            storage: ``"file"`` outlives the server's process, ``"memory"`` does not.
            replicas: copies in a cluster, 1 to 5.
            marker_ttl: whole seconds for which the word that a key has expired is kept for watchers; no key's own
                ``ttl`` may be shorter. ``None``: keys expire silently.
            description: free text.
            ensure: ``"verify"`` raises on a difference, ``"update"`` brings the server in line, ``"bind"`` asks
                nothing (for roles that may not, and for other clients' buckets); the options are not looked at then.

        Raises:
            ConfigDrift: verify, and it exists with other settings; it names each field.
            InvalidOption: at once.
            ConnectionLost, RequestTimeout, BrokerClosed, PermissionDenied, ApiError.
        """
        self._lifetime.check_loop()
        options = BucketOptions(
            bucket=bucket,
            history=history,
            ttl=ttl,
            max_bytes=max_bytes,
            max_value_size=max_value_size,
            storage=storage,
            replicas=replicas,
            marker_ttl=marker_ttl,
            description=description,
        )
        await self.buckets.ensure(options, ensure)
        return KeyValue(
            bucket,
            least_ttl=(marker_ttl or 0) if ensure != "bind" else 0,
            most_bytes=max_value_size if ensure != "bind" else None,
            backend=self._streams,
            codec=self._codec,
            enqueuer=self._enqueuer,
            buckets=self.buckets,
            roster=self._roster,
        )
