"""How a dead letter looks: the original body and headers, plus reserved headers that say where from and why."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from broker.contracts.envelopes import Delivery, Record, StoredMessage, readdressed
from broker.contracts.errors import InvalidKey, Unsupported
from broker.contracts.headers import KEY, ORDERING_KEY, STORED_AS, Headers
from broker.contracts.lanes import key_of_token
from broker.contracts.numerals import number_of
from broker.contracts.subjects import MAX_SUBJECT_BYTES, is_token, matches
from broker.handling import one_line, text_of
from broker.keys import check_key, identity_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.contracts.options import StreamOptions

PREFIX: Final = "gamebroker.dead"

_SUBJECT: Final = "Gamebroker-Dead-Subject"
_STREAM: Final = "Gamebroker-Dead-Stream"
_CONSUMER: Final = "Gamebroker-Dead-Consumer"
_SEQUENCE: Final = "Gamebroker-Dead-Sequence"
_ATTEMPTS: Final = "Gamebroker-Dead-Attempts"
_REASON: Final = "Gamebroker-Dead-Reason"
_ERROR: Final = "Gamebroker-Dead-Error"
_ERROR_TYPE: Final = "Gamebroker-Dead-Error-Type"
_FIRST: Final = "Gamebroker-Dead-First-Seen"
_LAST: Final = "Gamebroker-Dead-Last-Seen"
_OMITTED: Final = "Gamebroker-Dead-Body"
_LANE_KEY: Final = "Gamebroker-Dead-Lane-Key"
_STREAM_MADE: Final = "Gamebroker-Dead-Stream-Made"
_LONGEST_TEXT: Final = 512
_NS_PER_SECOND: Final = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """One message that gave up.

    Attributes:
        sequence: its number among the dead letters: what ``get``, ``replay`` and ``discard`` go by.
        stream: where it came from, with ``consumer``, ``subject`` and ``stream_sequence``. Both are empty when it is
            not stored where that consumer's letters are: somebody else wrote it, and it is not replayed.
        attempts: how often it was handed out.
        reason: ``"max_deliver"``, or what ``term`` was told; ``"max_deliver (server)"`` when the server itself gave up
            and a sweep found it.
        error: text of the last error (512 bytes at most), ``""`` when there was none.
        error_type: its class.
        first_seen: when the original was stored.
        last_seen: when it gave up.
        idempotency_key: the sender's own key, kept through replay.
        ordering_key: likewise.
        stored_as: what a message without an idempotency key is known by, kept through replay.
        complete: ``False`` when only a reference could be kept, for a message so near the server's size limit, or one
            that came without its body and was removed meanwhile; it is then read from ``stream`` at
            ``stream_sequence`` on replay.
        lane_key: of an ordered consumer's letter: what its key is stored by. Later messages of that key wait until the
            letter is replayed or discarded.
        stream_made: of such a letter: when its stream was made, microseconds since the epoch. In a later stream of that
            name nothing waits for it.
    """

    sequence: int
    stream: str
    consumer: str
    subject: str
    data: bytes
    headers: Headers
    stream_sequence: int
    attempts: int
    reason: str
    error: str
    error_type: str
    first_seen: datetime
    last_seen: datetime
    idempotency_key: str | None
    ordering_key: str | None = None
    stored_as: str | None = None
    complete: bool = True
    lane_key: str | None = None
    stream_made: int = 0


class FromLane(NamedTuple):
    """What the dead letter of an ordered consumer says besides.

    Attributes:
        key: later messages of that key wait for what becomes of it.
        stream_made: see ``DeadLetter``.
        turn: tells apart that the same message gave up, was replayed and gave up again.
    """

    key: str
    stream_made: int
    turn: int = 0


def moment_of(timestamp_ns: int) -> datetime:
    """A time as letters tell it."""
    return datetime.fromtimestamp(timestamp_ns / _NS_PER_SECOND, UTC)


def subject_of(stream: str, consumer: str) -> str:
    """Where the dead letters of a consumer go; a pair of names too long for a subject is shortened by its digest."""
    subject = f"{PREFIX}.{stream}.{consumer}"
    if len(subject.encode()) <= MAX_SUBJECT_BYTES:
        return subject
    return f"{PREFIX}.{hashlib.blake2b(f'{stream}.{consumer}'.encode(), digest_size=16).hexdigest()}"


def record_of(
    delivery: Delivery,
    reason: str,
    error: BaseException | None,
    *,
    complete: bool,
    lane: FromLane | None = None,
    last_seen: datetime | None = None,
) -> Record:
    """The dead letter of a delivery, whole or (its body left out) as a reference to the original."""
    kept: list[tuple[str, str]] = []
    if delivery.headers is not None:
        kept = [pair for pair in delivery.headers.pairs if _survives(pair[0])]
    key = _ordering_key(delivery)
    if key is not None and not any(name == ORDERING_KEY for name, _ in kept):
        kept.append((ORDERING_KEY, key))
    if not any(name in {KEY, STORED_AS} for name, _ in kept):
        kept.append((STORED_AS, identity_of(delivery)))
    told = [
        (_SUBJECT, delivery.subject),
        (_STREAM, delivery.stream),
        (_CONSUMER, delivery.consumer),
        (_SEQUENCE, str(delivery.sequence)),
        (_ATTEMPTS, str(delivery.attempt)),
        (_REASON, in_short(reason)),
        (_ERROR, in_short(text_of(error)) if error else ""),
        (_ERROR_TYPE, type(error).__name__ if error else ""),
        (_FIRST, moment_of(delivery.timestamp_ns).isoformat()),
        (_LAST, (last_seen or datetime.now(UTC)).isoformat()),
    ]
    if not complete:
        told.append((_OMITTED, "omitted"))
    if lane is not None:
        told += [(_LANE_KEY, lane.key), (_STREAM_MADE, str(lane.stream_made))]
    # The store time tells apart a stream that was deleted and made again under the same name.
    identity = f"dead:{delivery.stream}:{delivery.consumer}:{delivery.sequence}:{delivery.timestamp_ns}"
    if lane is not None and lane.turn:
        identity = f"{identity}:{lane.turn}"
    data = delivery.data if complete else b""
    return Record(subject_of(delivery.stream, delivery.consumer), data, Headers([*kept, *told]), identity)


def letter_of(stored: StoredMessage | Delivery) -> DeadLetter:
    """The dead letter in a stored message; what somebody else wrote there is shown as far as it makes sense."""
    headers = stored.headers or Headers()
    stored_at = moment_of(stored.timestamp_ns)
    stream, consumer, lane_key = headers.get(_STREAM, ""), headers.get(_CONSUMER, ""), headers.get(_LANE_KEY)
    ours = stored.subject == subject_of(stream, consumer) and (lane_key is None or is_token(lane_key))
    if not ours:  # permissions are by subject; headers say what they like
        stream = consumer = ""
    return DeadLetter(
        sequence=stored.sequence,
        stream=stream,
        consumer=consumer,
        subject=headers.get(_SUBJECT, stored.subject),
        data=stored.data,
        headers=headers.public(),
        stream_sequence=_number(headers.get(_SEQUENCE)),
        attempts=_number(headers.get(_ATTEMPTS)),
        reason=headers.get(_REASON, ""),
        error=headers.get(_ERROR, ""),
        error_type=headers.get(_ERROR_TYPE, ""),
        first_seen=_time(headers.get(_FIRST), stored_at),
        last_seen=_time(headers.get(_LAST), stored_at),
        idempotency_key=headers.get(KEY),
        ordering_key=headers.get(ORDERING_KEY),
        stored_as=headers.get(STORED_AS),
        complete=_OMITTED not in headers,
        lane_key=lane_key if ours else None,
        stream_made=_number(headers.get(_STREAM_MADE)),
    )


def revived(letter: DeadLetter, original: StoredMessage | None) -> Record:
    """The record that puts a letter back on its subject, under a new wire id and with the sender's own keys."""
    if original is not None:
        data, pairs = original.data, [pair for pair in (original.headers or Headers()).pairs if _survives(pair[0])]
        if letter.stored_as is not None and not any(name == STORED_AS for name, _ in pairs):
            pairs.append((STORED_AS, letter.stored_as))
    else:
        data, pairs = letter.data, list(_own(letter))
    identity = f"replay:{letter.stream}:{letter.sequence}:{letter.last_seen.isoformat()}"
    headers = Headers(pairs) if pairs else None
    return Record(letter.subject, data, headers, identity, ordering_key=letter.ordering_key)


def check_taken(letter: DeadLetter, config: StreamOptions) -> None:
    """Raises ``Unsupported`` for a letter on a subject that its stream, of that configuration, never stores."""
    made = config.subject_transform is not None and config.subject_transform.makes(letter.subject)
    copied = config.mirror is not None or config.sources
    if not (made or copied or any(matches(each, letter.subject) for each in config.subjects)):
        raise Unsupported(
            f"dead letter {letter.sequence} cannot be replayed: its stream {letter.stream!r} does not take "
            f"{letter.subject!r}; enqueue its data where it belongs, then discard it"
        )


def addressed(letter: DeadLetter, record: Record, config: StreamOptions) -> Record:
    """The record on a subject under which its stream stores it as it was: that may rewrite what it is sent."""
    transform = config.subject_transform
    if transform is None or not transform.makes(letter.subject):
        return record
    captured = any(matches(each, letter.subject) for each in config.subjects)
    if captured and not matches(transform.source, letter.subject):
        return record
    origin = transform.origin(letter.subject)
    if origin is None:
        raise Unsupported(
            f"dead letter {letter.sequence} cannot be replayed: the transform of stream {letter.stream!r} does not "
            f"tell what {letter.subject!r} was sent to; enqueue its data where it belongs, then discard it"
        )
    return readdressed(record, origin)


def _own(letter: DeadLetter) -> Iterator[tuple[str, str]]:
    yield from letter.headers.pairs
    if letter.idempotency_key is not None:
        yield KEY, letter.idempotency_key
    if letter.ordering_key is not None:
        yield ORDERING_KEY, letter.ordering_key
    if letter.stored_as is not None:
        yield STORED_AS, letter.stored_as


def _ordering_key(delivery: Delivery) -> str | None:
    """The message's key, from its lane when its sender is another client and wrote no header of ours."""
    told = delivery.headers.get(ORDERING_KEY) if delivery.headers is not None else None
    key = key_of_token(delivery.lane_key) if told is None and delivery.lane_key is not None else told
    try:
        return None if key is None else check_key(key, "ordering_key")
    except InvalidKey:  # nothing that we could write down
        return None


def _survives(name: str) -> bool:
    """Protocol headers of the old delivery say nothing about the new one; the sender's own keys do."""
    return name in {KEY, ORDERING_KEY} or not name.lower().startswith(
        ("nats-", "gamebroker-dead-", "gamebroker-parked-", "gamebroker-later-")
    )


def in_short(text: str) -> str:
    """A text as a header may hold it, cut to 512 bytes."""
    return one_line(text).encode("utf-8", "replace")[:_LONGEST_TEXT].decode("utf-8", "ignore")


def _number(text: str | None) -> int:
    return number_of(text) or 0


def _time(text: str | None, default: datetime) -> datetime:
    try:
        return datetime.fromisoformat(text) if text else default
    except ValueError:
        return default
