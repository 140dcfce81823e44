"""A frame on the wire: one array of eleven, encoded by the broker's codec, readable by any client.

``[version, kind, epoch, boot, seq, tick, base, sent, last_event, events, body]``

====================  ================================================================================================
version               1
kind                  ``"K"``: ``body`` is the state. ``"D"``: ``body`` is what differs from key frame ``base``,
                      ``[whole, changed, gone, cut]``; see ``delta``
epoch                 the room's owner; a higher one wins for ever
boot                  this publisher, by when it was made (microseconds): one that restarts under its old epoch is newer
seq                   this publisher's frames, from 1
tick                  the room's own clock
base                  ``seq`` of the key frame it builds on; of a key frame its own
sent                  when it was published, microseconds since 1970, by the sender's clock
last_event, events    the newest event's number, and the newest events, oldest first, each ``[tick, body]``
====================  ================================================================================================

A snapshot is an array of frames: the last key frame and, if there is one, the newest delta, as they were sent.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from broker.contracts.errors import DecodeError

VERSION: Final = 1
KEY: Final = "K"
DELTA: Final = "D"

_LENGTH: Final = 11
_NUMBERS: Final = slice(2, 9)
_MICROSECONDS: Final = 1_000_000


class Frame(NamedTuple):
    """A frame's fields in the order of the wire, without the version."""

    kind: str
    epoch: int
    boot: int
    seq: int
    tick: int
    base: int
    sent: int
    last_event: int
    events: list[Any]
    body: Any

    @property
    def published(self) -> float:
        """When it was published, seconds since 1970, by the sender's clock."""
        return self.sent / _MICROSECONDS


def as_array(frame: Frame) -> list[Any]:
    """What the codec encodes."""
    return [VERSION, *frame]


def from_array(raw: Any) -> Frame:
    """The frame in what the codec decoded.

    Raises:
        DecodeError: it is none, or of a version that is not known here.
    """
    if type(raw) is not list or len(raw) != _LENGTH:
        raise DecodeError("not a state frame")
    if raw[0] != VERSION:
        raise DecodeError(f"a state frame of version {raw[0]!r}; this reader knows {VERSION}")
    for number in raw[_NUMBERS]:
        if type(number) is not int or number < 0:
            raise DecodeError(f"a state frame with {number!r} for a number")
    frame = Frame._make(raw[1:])
    _check_events(frame.events, frame.last_event)
    if frame.kind == DELTA:
        if not 0 < frame.base < frame.seq:
            raise DecodeError(f"a delta numbered {frame.seq} on key frame {frame.base}")
        _check_delta(frame.body)
    elif frame.kind != KEY or not 0 < frame.base == frame.seq:
        raise DecodeError(f"a state frame of kind {frame.kind!r} numbered {frame.seq} on {frame.base}")
    return frame


def from_snapshot(raw: Any) -> list[Frame]:
    """The frames in a snapshot.

    Raises:
        DecodeError: it is none.
    """
    if type(raw) is not list:
        raise DecodeError("not a snapshot of frames")
    return [from_array(each) for each in raw]


def _check_events(events: Any, last: int) -> None:
    if type(events) is not list or len(events) > last:
        raise DecodeError("a state frame whose events are no list of at most as many as are numbered")
    for event in events:
        if type(event) is not list or len(event) != 2 or type(event[0]) is not int:  # noqa: PLR2004 - [tick, body]
            raise DecodeError("a state frame with an event that is not [tick, body]")


def _check_delta(body: Any) -> None:
    """What ``delta.merge`` relies on, so that it cannot fail later, in the hands of whoever asks for the state."""
    if type(body) is not list or [type(each) for each in body] != [dict, dict, list, dict]:
        raise DecodeError("a delta that is not [whole, changed, gone, cut]")
    _, changed, gone, cut = body
    if not all(type(fields) is dict for fields in changed.values()):
        raise DecodeError("a delta whose changed fields are no mapping")
    if not all(type(names) is list for names in cut.values()):
        raise DecodeError("a delta whose cut fields are no list")
    try:
        for names in (gone, *cut.values()):
            set(names)
    except TypeError as exc:
        raise DecodeError("a delta that removes what can be no name") from exc
