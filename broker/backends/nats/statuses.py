"""What a status instead of a message means for the pull it answers."""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import Final

from broker.contracts.events import ConsumerEventKind


class Verdict(Enum):
    """What to do about a pull."""

    ALIVE = auto()
    """It is still waiting on the server."""
    OVER = auto()
    """It ended in the ordinary way: ask again when there is room."""
    LATER = auto()
    """It ended because of trouble that passes: ask again after a pause."""
    MOVED = auto()
    """All pulls ended, since another server takes over: ask again after a pause."""
    CHECK = auto()
    """Nobody took it: find out whether the consumer is still there."""
    GONE = auto()
    """The consumer was deleted."""
    SMALLER = auto()
    """It asked for more messages than the consumer allows."""
    SHORTER = auto()
    """It asked for longer than the consumer allows."""
    TOO_LARGE = auto()
    """The next message is larger than the bytes it had left."""
    FEWER_BYTES = auto()
    """It asked for more bytes than the consumer allows, or for any number."""
    REFUSED = auto()
    """No pull will ever succeed."""


_BY_STATUS: Final = {
    100: Verdict.ALIVE,
    404: Verdict.OVER,
    408: Verdict.OVER,
    400: Verdict.REFUSED,
    412: Verdict.REFUSED,
    503: Verdict.CHECK,
}
_CONFLICTS: Final = (
    ("consumer deleted", Verdict.GONE),
    ("stream deleted", Verdict.CHECK),
    ("leadership change", Verdict.MOVED),
    ("server shutdown", Verdict.LATER),
    ("exceeded maxwaiting", Verdict.LATER),
    ("exceeded maxrequestbatch", Verdict.SMALLER),
    ("exceeded maxrequestexpires", Verdict.SHORTER),
    ("exceeded maxrequestmaxbytes", Verdict.FEWER_BYTES),
    ("message size exceeds maxbytes", Verdict.TOO_LARGE),
    ("batch completed", Verdict.OVER),
    ("consumer is push based", Verdict.REFUSED),
)
_CONFLICT: Final = 409
_EVENTS: Final = {423: ConsumerEventKind.PIN_LOST, 503: ConsumerEventKind.NO_RESPONDERS}
_CONFLICT_EVENTS: Final = (
    ("leadership change", ConsumerEventKind.LEADER_CHANGED),
    ("server shutdown", ConsumerEventKind.SERVER_SHUTDOWN),
    ("exceeded", ConsumerEventKind.LIMITS_EXCEEDED),
    ("exceeds", ConsumerEventKind.LIMITS_EXCEEDED),
)
_PENDING: Final = re.compile(rb"\r\nNats-Pending-Messages: *(\d{1,18})", re.IGNORECASE)
_UNITS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_DURATION: Final = re.compile(r"(\d{1,18}(?:\.\d+)?)(h|ms|m|s|us|µs|ns)")


def judge(status: int, text: str) -> Verdict:
    """The verdict on a pull answered with this status."""
    if status != _CONFLICT:
        return _BY_STATUS.get(status, Verdict.LATER)
    lowered = text.lower()
    return next((verdict for words, verdict in _CONFLICTS if words in lowered), Verdict.LATER)


def event_of(status: int, text: str) -> ConsumerEventKind | None:
    """What such a status tells about the consumer; ``None`` for the ordinary end of a pull."""
    if status != _CONFLICT:
        return _EVENTS.get(status)
    lowered = text.lower()
    return next((kind for words, kind in _CONFLICT_EVENTS if words in lowered), None)


def missing(block: bytes) -> int | None:
    """How many messages of the pull were not sent, when the status says so."""
    found = _PENDING.search(block)
    return int(found[1]) if found else None


def allowed_batch(text: str) -> int:
    """The number in ``Exceeded MaxRequestBatch of 10``; 1 when there is none."""
    found = re.search(r"of (\d{1,18})", text)
    return max(int(found[1]), 1) if found else 1


def allowed_seconds(text: str) -> float:
    """The duration in ``Exceeded MaxRequestExpires of 1m30s``; 1 second when there is none."""
    _, _, duration = text.rpartition(" of ")
    total = sum(float(number) * _UNITS[unit] for number, unit in _DURATION.findall(duration))
    return total or 1.0
