"""THE SEAM: what a backend is. Core is pushed, streams are pulled, as on the wire.

Backends move bytes; facades own policy (codec, retry, slots, settling, dead letters). Tracing, metrics and faults wrap
these protocols. In-repo backends name them as base, so a half-written one fails when it is constructed.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Callable, Sequence
    from contextlib import AbstractContextManager
    from datetime import datetime

    from broker.contracts.admin import ConsumerInfo, StreamInfo
    from broker.contracts.envelopes import Delivery, Envelope, Receipt, Record, StoredMessage
    from broker.contracts.events import Observe
    from broker.contracts.exhausted import Exhausted
    from broker.contracts.headers import Headers
    from broker.contracts.options import ConsumerOptions, StreamOptions
    from broker.contracts.status import Stats, StatusBoard

    Deliver = Callable[[Envelope], None]
    """Called from the event loop for each arriving message; returns at once and never raises."""

    Around = Callable[[Envelope | Delivery], AbstractContextManager[object]]
    """What runs around a handler: entered before it, left after it with its exception, if any."""


class Capabilities(NamedTuple):
    """What a backend claims, as data; the conformance suite checks every claim both ways.

    Attributes:
        survives_restart: stored messages outlive the server's process.
        detects_no_responders: a request nobody listens to fails at once.
        crosses_processes: two processes can talk through it.
        limits_pending_per_group: ``max_ack_pending`` counts the whole group, not one worker.
        reports_duplicates: a repeated message id is dropped within the window, and the receipt says so.
        expects_sequences: ``Expect`` is checked and stored atomically.
        expires_messages: a per-message time to live is honoured.
        copies_streams: mirrors, sources and placement of streams.
        groups_by_priority: priority groups of consumers.
    """

    survives_restart: bool
    detects_no_responders: bool
    crosses_processes: bool
    limits_pending_per_group: bool
    reports_duplicates: bool
    expects_sequences: bool
    expires_messages: bool
    copies_streams: bool
    groups_by_priority: bool


class Interest(Protocol):
    """A live subscription at the backend."""

    @abstractmethod
    async def stop(self) -> None:
        """No message is delivered after this returns. Idempotent; never raises on a lost connection."""


class CoreBackend(Protocol):
    """At-most-once messaging."""

    capabilities: Capabilities
    board: StatusBoard
    stats: Stats
    around: Around | None
    """``None`` (the usual case) means handlers are called bare, at no cost."""

    @property
    @abstractmethod
    def max_payload(self) -> int:
        """Bytes of body and headers together that one message may have."""

    @abstractmethod
    def publish(self, subject: str, data: bytes, headers: Headers | None, reply_to: str | None = None) -> None:
        """Take a message for sending and return in microseconds, whatever the server does.

        Held in the outbound buffer at most ``outbound_limit`` bytes; beyond it the oldest core messages are dropped
        and counted. Stream traffic is never dropped here. What was taken is counted in ``stats.published``. A server
        that forbids it is heard on ``board.denials``.

        Raises:
            InvalidSubject: it cannot be published to.
            PayloadTooLarge: body and headers (as on the wire) exceed ``max_payload``.
            BrokerClosed, Unauthorized: it will never be sent.
        """

    @property
    @abstractmethod
    def congested(self) -> bool:
        """Whether the outbound buffer is above its high-water mark."""

    @abstractmethod
    async def writable(self) -> None:
        """Wait until the outbound buffer is below its high-water mark. Cancellable.

        Raises:
            BrokerClosed, Unauthorized.
        """

    @abstractmethod
    async def request(self, subject: str, data: bytes, headers: Headers | None, *, timeout: float) -> Envelope:
        """The first reply.

        Raises:
            NoResponders, RequestTimeout, PayloadTooLarge, PermissionDenied: as named.
            ConnectionLost: at once, when the connection breaks while waiting or does not come back in time to send.
            BrokerClosed, Unauthorized.
        """

    @abstractmethod
    def new_inbox(self) -> str:
        """A fresh subject under the inbox prefix that nobody else listens to."""

    @abstractmethod
    async def subscribe(self, subject: str, deliver: Deliver, *, queue: str | None) -> Interest:
        """Deliver what arrives on the pattern; active on the server when it returns, restored after a reconnect.

        A reply that says "no responders" arrives as an envelope whose ``headers.status`` is 503.

        Raises:
            PermissionDenied, ConnectionLost, BrokerClosed, Unauthorized.
        """

    @abstractmethod
    async def flush(self, *, timeout: float) -> None:
        """Return when the server has processed everything sent before.

        Raises:
            RequestTimeout: no answer in time.
            ConnectionLost, BrokerClosed, Unauthorized.
        """

    @abstractmethod
    async def close(self) -> None:
        """Release everything, in bounded time whatever the server does. Idempotent. Does not flush."""


class DeliverySource(Protocol):
    """One worker's view of a consumer: deliveries come out, settlements go in.

    Settlements are fire-and-forget unless confirmed: a lost one means a redelivery, never a loss.
    """

    stream: str
    consumer: str

    @property
    @abstractmethod
    def resume_sequence(self) -> int | None:
        """Where a re-created consumer must start so that nothing is lost.

        A stream sequence at or before the first message the group has not settled; ``None`` when not even that is
        known (then it starts where the consumer first did).
        """

    @abstractmethod
    async def fetch(self, limit: int, *, timeout: float, max_bytes: int | None = None) -> Sequence[Delivery]:
        """At least one delivery as soon as there is one, at most ``limit``; empty after ``timeout`` seconds.

        With ``max_bytes`` no more is asked for than fits in beside what is here already; a single message that is
        larger than that comes alone.

        ``limit`` is the caller's free room: the source never has more than that on its way or in its own hands.
        While disconnected it waits, and asks again by itself after a reconnect. Cancelling loses nothing: what
        arrived stays for the next fetch or is given back by ``close``.

        Raises:
            ConsumerNotFound, StreamNotFound: it was deleted on the server.
            PermissionDenied, BrokerClosed, Unauthorized.
        """

    @abstractmethod
    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Settled: done."""

    @abstractmethod
    async def confirm_ack(self, delivery: Delivery, *, timeout: float) -> None:
        """Settled: done, and the server said that it knows.

        Raises:
            AckUnknown: it did not say so in time, or the connection broke.
        """

    @abstractmethod
    async def nak(self, delivery: Delivery, *, delay: float) -> None:
        """Given back: hand it out again after ``delay`` seconds."""

    @abstractmethod
    async def term(self, delivery: Delivery, *, reason: str) -> None:
        """Settled: never hand it out again."""

    @abstractmethod
    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        """Still working: the ack wait starts anew."""

    def watch(self, observe: Observe) -> None:
        """Tell it what happens to the consumer beyond what ``fetch`` raises; one that has nothing to tell need not."""
        del observe

    async def rest(self) -> None:
        """Keep the consumer, but ask for nothing until the next ``fetch``; asked only where it has no name."""
        await self.close()

    @abstractmethod
    async def close(self) -> None:
        """Give back what was not fetched and stop asking; what was fetched can still be settled afterwards.

        Idempotent; never raises on a lost connection.
        """


class StreamBackend(CoreBackend, Protocol):
    """Adds stored messaging.

    Every call may raise ``ConnectionLost``, ``BrokerClosed``, ``Unauthorized``, ``PermissionDenied``,
    ``RequestTimeout`` and ``ApiError``; each docstring names only what is particular.
    """

    exhausted: Exhausted | None = None
    """What its consumers give up on by themselves; ``None`` where none ever does."""

    @abstractmethod
    def append(self, record: Record, *, timeout: float) -> asyncio.Future[Receipt]:
        """One attempt to store a message. Sends at once and never blocks; the future always completes.

        A stream with lanes files it by ``record.ordering_key`` (see ``contracts.lanes``).

        The future fails with:
            NoResponders: no stream answered (none captures the subject, or none can right now).
            RequestTimeout: no answer in ``timeout`` seconds: stored or not is unknown.
            ConnectionLost: at once, when the connection breaks meanwhile: likewise unknown.
            StreamFull, SequenceConflict, PayloadTooLarge, ApiError: not stored.
        Cancelling the future abandons the answer, not the message.
        """

    @abstractmethod
    def append_atomic(self, records: Sequence[Record], *, timeout: float) -> asyncio.Future[Sequence[Receipt]]:
        """One attempt to store records of one stream, all or nothing, next to each other. See ``append``.

        The future also fails with:
            BatchRejected: nothing was stored. ``"duplicate"`` means that at least one id was stored before; after an
                attempt whose answer was lost it may mean that the whole batch was.
        """

    @abstractmethod
    async def look_up(self, record: Record, *, timeout: float) -> Receipt | None:
        """The receipt of the record's first copy when its id was stored within the duplicate window; ``None`` when not.

        Stores nothing, whatever the answer. What else is wrong with the record does not matter.
        """

    @abstractmethod
    async def find_stream(self, subject: str) -> str | None:
        """The name of the stream that captures the subject (or pattern), ``None`` when there is none.

        Raises:
            InvalidOption: several streams capture parts of the pattern.
        """

    @abstractmethod
    async def open_consumer(self, options: ConsumerOptions) -> DeliverySource:
        """Make sure of the consumer as ``options.ensure`` says, and a source on it.

        What it delivers of a stream with lanes has the subject it was sent to, and ``lane_key``.

        Raises:
            NoStream: no stream captures the filter.
            StreamNotFound: ``options.stream`` does not exist.
            ConsumerNotFound: bind only, and it does not exist.
            ConfigDrift: verify, and it exists with other settings (where it starts is not compared).
        """

    @abstractmethod
    async def create_stream(self, options: StreamOptions) -> StreamInfo:
        """Create it; fine when it exists exactly so.

        Raises:
            ConfigDrift: it exists with other settings.
        """

    @abstractmethod
    async def update_stream(self, options: StreamOptions) -> StreamInfo:
        """Change an existing stream.

        Raises:
            StreamNotFound: there is none.
            ConfigDrift: it names every field that no update can bring in line; nothing was changed.
        """

    @abstractmethod
    async def stream_info(self, name: str) -> StreamInfo:
        """Raises ``StreamNotFound`` when there is none."""

    @abstractmethod
    def list_streams(self, subject: str | None = None) -> AsyncIterator[StreamInfo]:
        """Every stream (that captures something of the pattern), by name, page by page."""

    @abstractmethod
    def list_stream_names(self, subject: str | None = None) -> AsyncIterator[str]:
        """Their names alone, page by page."""

    @abstractmethod
    async def delete_stream(self, name: str) -> None:
        """Raises ``StreamNotFound`` when there is none."""

    @abstractmethod
    async def purge_stream(self, name: str, *, subject: str | None, up_to: int | None, keep: int | None) -> int:
        """How many messages were removed: of that pattern, below sequence ``up_to``, but the newest ``keep``."""

    @abstractmethod
    async def get_message(
        self, stream: str, *, sequence: int | None, last_of: str | None, fresh: bool = False
    ) -> StoredMessage | None:
        """The message with that sequence, or the last one of that pattern; ``None`` when there is none.

        Any copy may answer, perhaps without what was stored a moment ago; ``fresh`` asks the one that takes appends.
        """

    @abstractmethod
    def get_last_many(
        self, stream: str, subjects: Sequence[str], *, up_to: int | datetime | None
    ) -> AsyncIterator[StoredMessage]:
        """The last message of each subject that the patterns cover, as of a sequence, a time or now, page by page."""

    @abstractmethod
    def get_many(
        self, stream: str, *, start: int, subject: str | None, limit: int, max_bytes: int | None
    ) -> AsyncIterator[StoredMessage]:
        """At most ``limit`` messages (of the pattern) from sequence ``start`` on, gaps skipped, page by page.

        Whoever asks takes no more than ``max_bytes`` of bodies: there is no need to have many more on their way.
        """

    @abstractmethod
    async def counter(self, stream: str, subject: str, *, sequence: int | None = None) -> int | None:
        """The value of the subject's counter, 0 when nothing was added yet; ``None`` when it is no counter.

        With ``sequence``: its value right after that addition; ``None`` when it is not kept any more.

        Raises:
            StreamNotFound: there is none.
        """

    @abstractmethod
    async def delete_message(self, stream: str, sequence: int, *, erase: bool = False) -> bool:
        """Whether there was one; ``erase`` overwrites its bytes."""

    @abstractmethod
    async def create_consumer(self, options: ConsumerOptions) -> ConsumerInfo:
        """Create it; fine when it exists exactly so.

        Raises:
            ConfigDrift, NoStream, StreamNotFound: as ``open_consumer``.
        """

    @abstractmethod
    async def update_consumer(self, options: ConsumerOptions) -> ConsumerInfo:
        """Change an existing consumer; its position stays.

        Raises:
            ConsumerNotFound, StreamNotFound: there is none.
            ConfigDrift: it names every field that no update can bring in line; nothing was changed.
        """

    @abstractmethod
    async def consumer_info(self, stream: str, name: str) -> ConsumerInfo:
        """Raises ``ConsumerNotFound`` (or ``StreamNotFound``) when there is none."""

    @abstractmethod
    def list_consumers(self, stream: str) -> AsyncIterator[ConsumerInfo]:
        """Every consumer of the stream, page by page."""

    @abstractmethod
    async def delete_consumer(self, stream: str, name: str) -> None:
        """Raises ``ConsumerNotFound`` (or ``StreamNotFound``) when there is none."""

    @abstractmethod
    def list_consumer_names(self, stream: str) -> AsyncIterator[str]:
        """Their names alone, page by page."""

    @abstractmethod
    async def pause_consumer(self, stream: str, name: str, *, until: datetime | None) -> bool:
        """Hand out nothing until then (``None``: go on at once); whether it is paused now."""

    @abstractmethod
    async def reset_consumer(self, stream: str, name: str, *, sequence: int | None) -> int:
        """Forget what was settled from ``sequence`` on (``None``: hand out anew what is not settled); where it is."""

    @abstractmethod
    async def unpin_consumer(self, stream: str, name: str, group: str) -> None:
        """The worker that has the priority group alone has it no more; the next one that asks gets it."""
