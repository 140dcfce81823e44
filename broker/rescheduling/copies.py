"""What waits for a far attempt, as a record, and how it becomes the message again that it is a copy of. No I/O.

It waits on ``gamebroker.later.waiting.<stream>.<consumer>.<sequence>.<stored>``; when it is due the server moves it to
``gamebroker.later.due.<stream>.<consumer>.<sequence>.<stored>``, which that group alone delivers. One message of a
group has one place to wait: what waited there before is replaced.
"""

from __future__ import annotations

import hashlib
from copy import copy
from typing import TYPE_CHECKING, Final, Literal

from broker.contracts.envelopes import Record
from broker.contracts.headers import KEY, STORED_AS, Headers
from broker.contracts.options import StreamOptions
from broker.contracts.schedules import Schedule
from broker.keys import identity_of
from broker.lanes.records import group_name

if TYPE_CHECKING:
    from broker.contracts.envelopes import Delivery

LATER_STREAM: Final = "GAMEBROKER_LATER"
"""The stream that keeps what waits; administrators may declare it themselves beforehand, with limits of their own."""
_PREFIX: Final = "gamebroker.later"
_OURS: Final = "gamebroker-later-"
_SUBJECT: Final = "Gamebroker-Later-Subject"
_SEQUENCE: Final = "Gamebroker-Later-Sequence"
_STORED: Final = "Gamebroker-Later-Stored"
_ATTEMPTS: Final = "Gamebroker-Later-Attempts"
_LANE_KEY: Final = "Gamebroker-Later-Lane-Key"
_LONGEST_NAME: Final = 255


def later_stream_options(replicas: int = 1) -> StreamOptions:
    """How the stream is made when nobody declared it before."""
    return StreamOptions(
        LATER_STREAM,
        [f"{_PREFIX}.>"],
        retention="workqueue",
        discard="old",
        schedules=True,
        replicas=replicas,
        description="messages that wait for an attempt that is far away",
    )


def consumer_name(stream: str, consumer: str) -> str:
    """The consumer that brings back what waited for a group.

    ``<stream>--<consumer>``; the digest of the two where that is too long, or might be another pair's.
    """
    name = f"{stream}--{consumer}"
    if len(name.encode()) <= _LONGEST_NAME and name.count("--") == 1 and "---" not in name:
        return name
    return hashlib.blake2b(f"{stream}.{consumer}".encode(), digest_size=16).hexdigest()


def due_pattern(stream: str, consumer: str) -> str:
    """What that consumer delivers."""
    return f"{_PREFIX}.due.{group_name(stream, consumer)}.>"


def places_of(stream: str, consumer: str, sequence: int | Literal["*"]) -> str:
    """The pattern of wherever that message (``"*"``: any) is between two attempts: waiting, or due."""
    return f"{_PREFIX}.*.{group_name(stream, consumer)}.{sequence}.*"


def waiting_subject(delivery: Delivery) -> str:
    """Where a message waits."""
    return _place("waiting", delivery)


def waiting_record(delivery: Delivery, wait: float, message_id: str) -> Record:
    """A delivery as it waits, ``wait`` seconds from when it is sent, for the attempt after this one."""
    kept = [pair for pair in (delivery.headers or Headers()).pairs if _survives(pair[0])]
    told = [
        (_SUBJECT, delivery.subject),
        (_SEQUENCE, str(delivery.sequence)),
        (_STORED, str(delivery.timestamp_ns)),
        (_ATTEMPTS, str(delivery.attempt)),
    ]
    if delivery.lane_key is not None:
        told.append((_LANE_KEY, delivery.lane_key))
    if not any(value and name in {KEY, STORED_AS} for name, value in kept):  # the copy has an id of its own
        told.append((STORED_AS, identity_of(delivery)))
    due = Schedule(_place("due", delivery), delay=wait)
    return Record(waiting_subject(delivery), delivery.data, Headers([*kept, *told]), message_id, schedule=due)


def as_first_stored(delivery: Delivery, stream: str, consumer: str) -> Delivery:
    """What came back, as the message it is a copy of: its place in its stream, its time, and every attempt counted.

    What somebody else wrote there comes as it is.
    """
    twin, headers = copy(delivery), delivery.headers or Headers()
    twin.stream, twin.consumer, twin.again = stream, consumer, True
    try:
        sequence, stored_ns = int(headers.get(_SEQUENCE, "")), int(headers.get(_STORED, ""))
        attempts = int(headers.get(_ATTEMPTS, ""))
    except ValueError:
        return twin
    twin.subject = headers.get(_SUBJECT, delivery.subject)
    twin.sequence, twin.attempt, twin.timestamp_ns = sequence, attempts + delivery.attempt, stored_ns
    twin.lane_key = headers.get(_LANE_KEY)
    return twin


def _place(state: str, delivery: Delivery) -> str:
    # The store time tells apart a stream that was deleted and made again under the same name.
    group = group_name(delivery.stream, delivery.consumer)
    return f"{_PREFIX}.{state}.{group}.{delivery.sequence}.{delivery.timestamp_ns}"


def _survives(name: str) -> bool:
    """Protocol headers of an old copy say nothing about a new one."""
    return not name.lower().startswith(("nats-", _OURS))
