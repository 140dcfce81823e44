"""The reply subject of a delivery: it settles the message, and its tokens say which one it is.

``$JS.ACK.<stream>.<consumer>.<attempt>.<sequence>.<consumer sequence>.<time>.<pending>``, newer servers with the domain
and a hash of the account before the stream, and possibly more tokens at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

from msgspec import MsgspecError
from msgspec.json import Decoder

if TYPE_CHECKING:
    from collections.abc import Callable

    Numbers = tuple[int, int, int, int, int]
    """Attempt, sequence, consumer sequence, time in nanoseconds since the epoch, pending."""

UNREADABLE: Final = (ValueError, MsgspecError)
"""What a reader raises for the ack subjects of another consumer or another version."""
_PREFIX: Final = b"$JS.ACK."
_SHORT: Final = 9
_LONG: Final = 11
_COUNT: Final = 5
_as_array: Final = Decoder(tuple[int, int, int, int, int]).decode


def unread(subject: bytes) -> NoReturn:
    """The reader of whoever has not seen one yet."""
    raise ValueError(f"not read yet: {subject!r}")


def reader(subject: bytes) -> Callable[[bytes], Numbers]:
    """What reads the numbers out of every ack subject of this one's consumer: they begin at the same place.

    Raises:
        ValueError: not the reply subject of a delivery.
    """
    tokens = subject.split(b".")
    if not subject.startswith(_PREFIX) or (len(tokens) != _SHORT and len(tokens) < _LONG):
        raise ValueError(f"not an ack subject: {subject!r}")
    first = _SHORT - _COUNT if len(tokens) == _SHORT else _LONG - _COUNT
    begin = len(b".".join(tokens[:first])) + 1
    if len(tokens) in {_SHORT, _LONG}:
        # Read as a JSON array in half the time of as many calls of int(); this runs once per message.
        return lambda each: _as_array(b"[%b]" % each[begin:].replace(b".", b","))
    return lambda each: _first_numbers(each[begin:])


def _first_numbers(rest: bytes) -> Numbers:
    attempt, sequence, count, stored, pending = map(int, rest.split(b".", _COUNT)[:_COUNT])
    return attempt, sequence, count, stored, pending
