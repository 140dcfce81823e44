"""The reply subject of a delivery: it settles the message, and its tokens say which one it is."""

from __future__ import annotations

from typing import Final, NamedTuple

PREFIX: Final = b"$JS.ACK."
_SHORT: Final = 9
_LONG: Final = 11
_SHORT_STREAM: Final = 2
_LONG_STREAM: Final = 4


class Position(NamedTuple):
    """Where a delivery stands."""

    stream: str
    consumer: str
    attempt: int
    sequence: int
    timestamp_ns: int
    pending: int


def numbers_at(subject: bytes) -> int:
    """The index of the first number in the subject's tokens: the same for every message of a consumer.

    Raises:
        ValueError: not the reply subject of a delivery.
    """
    tokens = subject.count(b".") + 1
    if not subject.startswith(PREFIX) or (tokens != _SHORT and tokens < _LONG):
        raise ValueError(f"not an ack subject: {subject!r}")
    return (_SHORT_STREAM if tokens == _SHORT else _LONG_STREAM) + 2


def parse(subject: bytes) -> Position:
    """All of it.

    ``$JS.ACK.<stream>.<consumer>.<attempt>.<sequence>.<consumer sequence>.<time>.<pending>``, newer servers with the
    domain and a hash of the account before the stream, and possibly more tokens at the end.

    Raises:
        ValueError: not the reply subject of a delivery.
    """
    first = numbers_at(subject)
    tokens = subject.split(b".")
    return Position(
        stream=tokens[first - 2].decode(),
        consumer=tokens[first - 1].decode(),
        attempt=int(tokens[first]),
        sequence=int(tokens[first + 1]),
        timestamp_ns=int(tokens[first + 3]),
        pending=int(tokens[first + 4]),
    )
