"""How a message looks while it waits for its turn, and as its next attempt in the lane. No I/O.

It is kept under one subject for each message, and the stream keeps only the newest record of a subject: parking it anew
replaces what was kept before, at once and as a whole.
"""

from __future__ import annotations

import hashlib
from copy import copy
from typing import TYPE_CHECKING, Final, Literal

from broker.contracts.envelopes import Delivery, Record
from broker.contracts.headers import Headers
from broker.contracts.lanes import Place, again_subject
from broker.contracts.numerals import number_of
from broker.contracts.options import StreamOptions
from broker.lanes.parking import Waiting

if TYPE_CHECKING:
    from broker.contracts.admin import StreamInfo
    from broker.contracts.envelopes import StoredMessage
    from broker.contracts.lanes import Lane
    from broker.letters import DeadLetter

PARKED_STREAM: Final = "GAMEBROKER_PARKED"
"""The stream that keeps what waits; administrators may declare it themselves beforehand, with limits of their own."""
_PREFIX: Final = "gamebroker.parked"
_OURS: Final = "gamebroker-parked-"
_SUBJECT: Final = "Gamebroker-Parked-Subject"
_ATTEMPTS: Final = "Gamebroker-Parked-Attempts"
_STORED: Final = "Gamebroker-Parked-Stored"
_DUE: Final = "Gamebroker-Parked-Due"
_LETTER: Final = "Gamebroker-Parked-Letter"
_TURN: Final = "Gamebroker-Parked-Turn"
_REVIVED: Final = "Gamebroker-Parked-Revived"
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


def places_of(stream: str, queue: str, order: int | Literal["*"]) -> str:
    """The pattern of where that message (``"*"``: any) waits, whatever its key."""
    return f"{group_subject(stream, queue)}.*.*.{order}"


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
    if is_revived(delivery):
        told.append((_REVIVED, "1"))
    what = f"{delivery.timestamp_ns}:{attempts}:{delivery.attempt}:{letter}"
    # The body of what is dead lives in its letter.
    data = delivery.data if letter is None else b""
    return Record(subject, data, Headers([*kept, *told]), f"{subject}:{what}")


def revived_record(letter: DeadLetter, data: bytes, headers: Headers) -> Record:
    """The record that lets a dead letter's message have its turn again, before whatever waits behind it."""
    stored_ns = round(letter.first_seen.timestamp() * 1e9)
    kept = [pair for pair in headers.pairs if _survives(pair[0])]
    told = [(_SUBJECT, letter.subject), (_ATTEMPTS, "0"), (_STORED, str(stored_ns)), (_DUE, "0.0"), (_REVIVED, "1")]
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
    """The next attempt at a parked message, as it goes into the lane: only its place there, the rest stays parked."""
    place = Place((kept.headers or Headers()).get(_SUBJECT, ""), waiting.key)
    identity = f"again:{group_name(stream, queue)}:{waiting.order}:{waiting.sequence}"
    return Record(again_subject(stream, queue, lane, place), b"", Headers([(_TURN, str(waiting.sequence))]), identity)


def parked_delivery(stream: str, queue: str, kept: StoredMessage) -> Delivery | None:
    """A parked message as if it were handed out once more; ``None`` for one that is none, or dead."""
    waiting, headers = waiting_of(kept), kept.headers or Headers()
    stored = number_of(headers.get(_STORED))
    if waiting is None or waiting.letter is not None or stored is None:
        return None
    pairs = [pair for pair in headers.pairs if not pair[0].lower().startswith("nats-")]
    return Delivery(
        subject=headers.get(_SUBJECT, ""),
        data=kept.data,
        headers=Headers([*pairs, (_TURN, str(kept.sequence))]),
        stream=stream,
        consumer=queue,
        sequence=waiting.order,
        attempt=waiting.attempts + 1,
        timestamp_ns=stored,
        pending=0,
        token=None,
        lane_key=waiting.key,
        again=True,
    )


def attempt_at(kept: StoredMessage, copied: Delivery) -> Delivery | None:
    """What the lane handed out, as the message it is a next attempt at: its sequence, its time, attempts counted."""
    whole = parked_delivery(copied.stream, copied.consumer, kept)
    if whole is not None:
        whole.attempt += copied.attempt - 1
        whole.token, whole.pending, whole.consumer_sequence = copied.token, copied.pending, copied.consumer_sequence
    return whole


def turn_of(delivery: Delivery) -> int | None:
    """The parked record that this is the next attempt for; ``None`` for a message on its first way."""
    if not delivery.again:
        return None
    turn = (delivery.headers or Headers()).get(_TURN, "")
    return number_of(turn) or 0


def is_revived(message: Delivery | StoredMessage) -> bool:
    """Whether it is tried again because somebody replayed its dead letter."""
    return _REVIVED in (message.headers or ())


def as_group(delivery: Delivery, queue: str) -> Delivery:
    """A delivery as its dead letter tells of it: which lane it came through is nobody's business."""
    twin = copy(delivery)
    twin.consumer = queue
    return twin


def _survives(name: str) -> bool:
    """Protocol headers of an old copy say nothing about a new one."""
    return not name.lower().startswith(("nats-", _OURS))
