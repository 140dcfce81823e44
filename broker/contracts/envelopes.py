"""The data that crosses the seam. No behaviour: replying, decoding and settling live in ``broker.messages``.

What is built once per message is a Struct, which takes a third of a dataclass's time to build, or a named tuple where
users take it apart. They hold no cycles, so the garbage collector need not look at them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from broker.contracts.errors import InvalidOption
from broker.contracts.headers import Headers
from broker.contracts.options import in_range
from broker.contracts.subjects import resource_name, subscribe_pattern

if TYPE_CHECKING:
    from broker.contracts.headers import HeadersLike
    from broker.contracts.schedules import Schedule


class Envelope(Struct, gc=False):
    """A message that just arrived."""

    subject: str
    data: bytes
    headers: Headers | None = None
    reply_to: str | None = None


class Delivery(Struct, gc=False):
    """A stored message on loan from a consumer.

    Attributes:
        stream: the stream that stores it.
        consumer: the consumer that lent it.
        sequence: its number in the stream, from 1.
        attempt: how often this consumer has handed it out, this time included, from 1.
        timestamp_ns: when it was stored, nanoseconds since the epoch, by the server's clock.
        pending: how many messages of this consumer were still waiting behind it.
        token: the backend's own reference for settling it; nobody else looks inside.
        consumer_sequence: counts this consumer's deliveries without a gap, from 1; 0 when the backend does not count.
        lane_key: the token its ordering key is stored by, in a stream with lanes; ``None`` elsewhere.
        again: whether it is a group's own copy of a message that it tries again.
    """

    subject: str
    data: bytes
    headers: Headers | None
    stream: str
    consumer: str
    sequence: int
    attempt: int
    timestamp_ns: int
    pending: int
    token: object
    consumer_sequence: int = 0
    lane_key: str | None = None
    again: bool = False


class Receipt(NamedTuple):
    """The server's word that a message is stored.

    Attributes:
        stream: where.
        sequence: its number there; of the first copy when ``duplicate``.
        duplicate: this repeat was dropped because its key was already stored within the duplicate window.
    """

    stream: str
    sequence: int
    duplicate: bool = False


class Counted(Receipt):
    """The receipt of an addition to a counter.

    Attributes:
        value: of the counter right after it.
    """

    value: int

    @classmethod
    def of(cls, stream: str, sequence: int, value: int) -> Counted:
        """An addition that was stored just now."""
        counted = cls(stream, sequence)
        counted.value = value
        return counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Expect:
    """What must hold for an enqueue to be stored; otherwise ``SequenceConflict`` and nothing is stored.

    Attributes:
        last_sequence: the stream's last sequence.
        last_subject_sequence: the last sequence on the subject (0: none yet).
        subject_filter: count ``last_subject_sequence`` over this pattern instead of the subject itself.
        last_msg_id: the wire id of the stream's last message. The stream is asked about first, and one with replicas is
            refused (``Unsupported``): nats-server 2.15.1 loses such a stream when the expectation does not hold.
        stream: the name of the stream that captures the subject.

    Raises:
        InvalidOption, InvalidSubject: one of them cannot hold of any stream.
    """

    last_sequence: int | None = None
    last_subject_sequence: int | None = None
    subject_filter: str | None = None
    last_msg_id: str | None = None
    stream: str | None = None

    def __post_init__(self) -> None:
        for option in ("last_sequence", "last_subject_sequence"):
            if getattr(self, option) is not None:
                in_range(option, getattr(self, option), 0, whole=True)
        if self.stream is not None:
            resource_name(self.stream, "stream")
        if self.subject_filter is not None:
            subscribe_pattern(self.subject_filter)
            if self.last_subject_sequence is None:
                raise InvalidOption("subject_filter= needs last_subject_sequence=", option="subject_filter")
        given = self.last_msg_id
        if given is not None and not (isinstance(given, str) and given and given.isascii() and given.isprintable()):
            raise InvalidOption(f"last_msg_id={given!r}: must be printable ASCII, not empty", option="last_msg_id")


class Entry(NamedTuple):
    """One message for ``enqueue_many``: the arguments of ``enqueue`` as data."""

    subject: str
    body: object
    idempotency_key: str | None = None
    ordering_key: str | None = None
    headers: HeadersLike | None = None
    ttl: float | None = None
    expect: Expect | None = None


class Record(Struct, gc=False):
    """A message on its way into a stream, as the backend takes it.

    Attributes:
        message_id: the id the server deduplicates by within the stream's duplicate window; never empty.
        ttl: seconds after which the server may drop it, whole; ``None`` keeps it as long as the stream does.
        ordering_key: what decides its lane in a stream with lanes (also in ``headers``, for readers).
        rollup: once it is stored, every earlier message of its subject is gone.
        schedule: it waits under ``subject`` until then.
        increment: what it adds to the counter of its subject; it has no body then.
        inquiry: it asks whether its id is stored, and is never stored itself.
    """

    subject: str
    data: bytes
    headers: Headers | None
    message_id: str
    ttl: int | None = None
    expect: Expect | None = None
    ordering_key: str | None = None
    rollup: bool = False
    schedule: Schedule | None = None
    increment: int | None = None
    inquiry: bool = False


def inquiring(record: Record) -> Record:
    """The same record, sent to learn whether it is stored."""
    return replace(record, expect=None, inquiry=True)


def scheduling(record: Record, schedule: Schedule, subject: str, message_id: str, *pairs: tuple[str, str]) -> Record:
    """The same record, kept on another subject until it is due, under an id of its own and with more headers."""
    headers = record.headers.adding(*pairs) if record.headers is not None else Headers(pairs)
    return replace(record, subject=subject, headers=headers, message_id=message_id, schedule=schedule)


def counting(record: Record, by: int) -> Record:
    """The same record as an addition to its subject's counter."""
    return replace(record, increment=by)


def expecting(record: Record, expect: Expect | None) -> Record:
    """The same record with another expectation, or none."""
    return replace(record, expect=expect)


def renamed(record: Record, message_id: str) -> Record:
    """The same message under another id."""
    return replace(record, message_id=message_id)


def readdressed(record: Record, subject: str) -> Record:
    """The same message on another subject."""
    return replace(record, subject=subject)


def refilled(delivery: Delivery, data: bytes, headers: Headers | None) -> Delivery:
    """The same delivery with another body and headers."""
    return replace(delivery, data=data, headers=headers)


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message read straight from a stream, not on loan: there is nothing to settle."""

    subject: str
    data: bytes
    headers: Headers | None
    stream: str
    sequence: int
    timestamp_ns: int
