"""How a message looks while it waits for its turn, and as its next attempt in the lane. No I/O.

It is kept under one subject for each message, and the stream keeps only the newest record of a subject: parking it anew
replaces what was kept before, at once and as a whole.
"""

from __future__ import annotations

import hashlib
from copy import copy
from typing import TYPE_CHECKING, Final

from broker.contracts.envelopes import Record
from broker.contracts.headers import Headers
from broker.contracts.lanes import Place, again_subject
from broker.contracts.options import StreamOptions
from broker.lanes.parking import Waiting

if TYPE_CHECKING:
    from broker.contracts.admin import StreamInfo
    from broker.contracts.envelopes import Delivery, StoredMessage
    from broker.contracts.lanes import Lane
    from broker.letters import DeadLetter

PARKED_STREAM: Final = "GAMEBROKER_PARKED"
"""The stream that keeps what waits; administrators may declare it themselves beforehand, with limits of their own."""
_PREFIX: Final = "gamebroker.parked"
_OURS: Final = "gamebroker-parked-"
_SUBJECT: Final = "Gamebroker-Parked-Subject"
_ORDER: Final = "Gamebroker-Parked-Order"
_ATTEMPTS: Final = "Gamebroker-Parked-Attempts"
_STORED: Final = "Gamebroker-Parked-Stored"
_DUE: Final = "Gamebroker-Parked-Due"
_LETTER: Final = "Gamebroker-Parked-Letter"
_TURN: Final = "Gamebroker-Parked-Turn"
_LONGEST_GROUP: Final = 320
"""Bytes: with a time, a key and a sequence behind it, it still fits into a subject."""
_MICROSECONDS: Final = 1_000_000


def parked_stream_options(replicas: int = 1) -> StreamOptions:
    """How the stream is made when nobody declared it before."""
    return StreamOptions(
        PARKED_STREAM,
        [f"{_PREFIX}.>"],
        max_msgs_per_subject=1,
        discard="old",
        replicas=replicas,
        description="messages of ordered consumers that wait for their turn",
    )


def when_made(stream: StreamInfo) -> int:
    """What tells a stream from an earlier one of its name: when it was made, microseconds since the epoch."""
    return 0 if stream.created is None else round(stream.created.timestamp() * _MICROSECONDS)


def group_name(stream: str, queue: str) -> str:
    """A group in a subject; names too long for one are shortened to their digest."""
    name = f"{stream}.{queue}"
    if len(name.encode()) <= _LONGEST_GROUP:
        return name
    return hashlib.blake2b(name.encode(), digest_size=16).hexdigest()


def group_subject(stream: str, queue: str) -> str:
    """What the parked subjects of a group begin with."""
    return f"{_PREFIX}.{group_name(stream, queue)}"


def parked_subject(stream: str, queue: str, made: int, key: str, order: int) -> str:
    """Where one message waits. What waited in a stream that was deleted waits elsewhere."""
    return f"{group_subject(stream, queue)}.{made}.{key}.{order}"


def parked_record(subject: str, delivery: Delivery, *, attempts: int, due: float, letter: int | None) -> Record:
    """The record that keeps a delivery until its turn comes, or until somebody decides about its dead letter."""
    kept = [pair for pair in (delivery.headers or Headers()).pairs if _survives(pair[0])]
    told = [
        (_SUBJECT, delivery.subject),
        (_ATTEMPTS, str(attempts)),
        (_STORED, str(delivery.timestamp_ns)),
        (_DUE, repr(due)),
    ]
    if letter is not None:
        told.append((_LETTER, str(letter)))
    what = f"{delivery.timestamp_ns}:{attempts}:{delivery.attempt}:{letter}"
    # The body of what is dead lives in its letter.
    data = delivery.data if letter is None else b""
    return Record(subject, data, Headers([*kept, *told]), f"{subject}:{what}")


def revived_record(letter: DeadLetter, data: bytes, headers: Headers) -> Record:
    """The record that lets a dead letter's message have its turn again, before whatever waits behind it."""
    stored_ns = round(letter.first_seen.timestamp() * 1e9)
    kept = [pair for pair in headers.pairs if _survives(pair[0])]
    told = [(_SUBJECT, letter.subject), (_ATTEMPTS, "0"), (_STORED, str(stored_ns)), (_DUE, "0.0")]
    stream, queue, key = letter.stream, letter.consumer, letter.lane_key or ""
    subject = parked_subject(stream, queue, letter.stream_made, key, letter.stream_sequence)
    identity = f"revived:{letter.stream}:{letter.sequence}:{letter.last_seen.isoformat()}"
    return Record(subject, data, Headers([*kept, *told]), identity)


def waiting_of(stored: StoredMessage | Delivery) -> Waiting | None:
    """What a parked record says; ``None`` when it is none of ours."""
    headers = stored.headers or Headers()
    try:
        *_, made, key, order = stored.subject.split(".")
        letter = headers.get(_LETTER)
        return Waiting(
            key,
            int(order),
            stored.sequence,
            attempts=int(headers.get(_ATTEMPTS, "0")),
            due=float(headers.get(_DUE, "0")),
            letter=None if letter is None else int(letter),
            made=int(made),
        )
    except ValueError:
        return None


def again_record(stream: str, queue: str, lane: Lane, waiting: Waiting, kept: StoredMessage) -> Record:
    """The next attempt at a parked message, as it goes into the lane."""
    headers = kept.headers or Headers()
    subject = again_subject(stream, queue, lane, Place(headers.get(_SUBJECT, ""), waiting.key))
    pairs = [pair for pair in headers.pairs if not pair[0].lower().startswith("nats-")]
    identity = f"again:{stream}:{queue}:{waiting.order}:{waiting.attempts}:{waiting.sequence}"
    told = [(_ORDER, str(waiting.order)), (_TURN, str(waiting.sequence))]
    return Record(subject, kept.data, Headers([*pairs, *told]), identity)


def as_first_stored(delivery: Delivery) -> Delivery:
    """A next attempt as the message it is one of: its sequence, its time, and every attempt counted."""
    headers = delivery.headers
    if not delivery.again or headers is None:
        return delivery
    try:
        order, attempts = int(headers.get(_ORDER, "")), int(headers.get(_ATTEMPTS, ""))
        stored_ns = int(headers.get(_STORED, ""))
    except ValueError:
        return delivery
    twin = copy(delivery)
    twin.sequence, twin.attempt, twin.timestamp_ns = order, attempts + delivery.attempt, stored_ns
    return twin


def turn_of(delivery: Delivery) -> int | None:
    """The parked record that this is the next attempt for; ``None`` for a message on its first way."""
    if not delivery.again:
        return None
    turn = (delivery.headers or Headers()).get(_TURN, "")
    return int(turn) if turn.isascii() and turn.isdigit() else 0


def as_group(delivery: Delivery, queue: str) -> Delivery:
    """A delivery as its dead letter tells of it: which lane it came through is nobody's business."""
    twin = copy(delivery)
    twin.consumer = queue
    return twin


def _survives(name: str) -> bool:
    """Protocol headers of an old copy say nothing about a new one."""
    return not name.lower().startswith(("nats-", _OURS))
