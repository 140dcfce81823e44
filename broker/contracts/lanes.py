"""Lanes: how the messages of one ordering key stay together. The words both sides of the seam use; no I/O.

A message for a stream with lanes goes to ``gamebroker.keyed.<key>.<subject>``. The server's own ``partition()`` stores
it under ``gamebroker.lane.<generation>.<lane>.<key>.<subject>``, so that no publisher needs to know how many lanes
there are, and a consumer can ask for one of them. A generation is a number of lanes: changing the number begins the
next one. What a group tries again goes to ``gamebroker.again.<stream>.<queue>.<generation>.<lane>.<key>.<subject>``,
which the stream stores as it is and only that group's consumer of that lane delivers.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import quote, unquote

from broker.contracts.errors import InvalidOption
from broker.contracts.numerals import number_of

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_LANES: Final = 1024
OURS: Final = "gamebroker."
"""Begins every subject of the library's own; such a subject is sent as it is."""
KEYED: Final = "gamebroker.keyed."
LANE: Final = "gamebroker.lane."
AGAIN: Final = "gamebroker.again."
STORED: Final = (LANE, AGAIN)
"""What the subjects of a stream with lanes begin with, as they are stored."""

_LONGEST_TOKEN: Final = 128
_DIGEST: Final = "~"
"""Begins a token that is not the key itself; ``~`` in a key is encoded, so no key looks like one."""
_CACHED: Final = 8192
_BASIS: Final = 0x811C9DC5
_PRIME: Final = 0x01000193
_WORD: Final = 0xFFFFFFFF
_LANE_PARTS: Final = 5
_AGAIN_PARTS: Final = 7


class Lane(NamedTuple):
    """One lane of a stream: which generation, and which of that generation's lanes, from 0."""

    generation: int
    number: int


class Place(NamedTuple):
    """What a stored subject says.

    Attributes:
        subject: as the sender gave it.
        key: the token of its ordering key; ``None`` outside of lanes.
        again: whether it is a group's copy of a message it tries again.
    """

    subject: str
    key: str | None = None
    again: bool = False


@lru_cache(_CACHED)
def key_token(key: str) -> str:
    """The key as one token of a subject: percent-encoded as in a URL (RFC 3986, ``.`` and ``~`` encoded as well).

    A key of letters, digits, ``_`` and ``-`` is its own token. One whose encoding is over 128 bytes becomes ``~`` and
    its SHA-256 in hex.
    """
    token = quote(key, safe="").replace(".", "%2E").replace("~", "%7E")
    return token if len(token) <= _LONGEST_TOKEN else _DIGEST + hashlib.sha256(key.encode()).hexdigest()


def no_key_token(message_id: str) -> str:
    """The token of a message without a key: its own, so that such messages spread over the lanes."""
    return _DIGEST + hashlib.blake2b(message_id.encode(), digest_size=8).hexdigest()


def key_of_token(token: str) -> str | None:
    """The key a token was made of; ``None`` when it does not tell."""
    return None if token.startswith(_DIGEST) else unquote(token)


def lane_of(key: str, lanes: int) -> int:
    """The lane of an ordering key, from 0: FNV-1a (32 bits) of its token, modulo the number of lanes."""
    return lane_of_token(key_token(key), lanes)


def lane_of_token(token: str, lanes: int) -> int:
    """``lane_of`` for a key that is a token already; the server's ``partition()`` computes the same."""
    digest = _BASIS
    for byte in token.encode():
        digest = ((digest ^ byte) * _PRIME) & _WORD
    return digest % lanes


def keyed_subject(token: str, subject: str) -> str:
    """Where a message with that key goes."""
    return f"{KEYED}{token}.{subject}"


def stored_subject(lane: Lane, token: str, subject: str) -> str:
    """What the server makes of ``keyed_subject``."""
    return f"{LANE}{lane.generation}.{lane.number}.{token}.{subject}"


def again_subject(stream: str, queue: str, lane: Lane, place: Place) -> str:
    """Where a group's next attempt at a message goes."""
    return f"{AGAIN}{stream}.{queue}.{lane.generation}.{lane.number}.{place.key}.{place.subject}"


def lane_consumer(queue: str, lane: Lane) -> str:
    """The name of the consumer that a group has for one lane."""
    return f"{queue}-{lane.generation}-{lane.number}"


def group_of(consumer: str) -> str:
    """Whose consumer for a lane that is."""
    return consumer.rsplit("-", 2)[0]


def other_way(name: str, stream: str) -> InvalidOption:
    """The refusal of a name that is in use for the other way to work through a stream with lanes."""
    told = (
        f"{name!r} works through stream {stream!r} the other way (ordered=True, or not): both would handle every "
        "message; take another name, or delete its consumers first"
    )
    return InvalidOption(told, option="ordered")


def place_of(stored: str) -> Place:
    """What a stored subject says; one outside of lanes says only itself."""
    if stored.startswith(LANE):
        parts = stored.split(".", _LANE_PARTS)
        if len(parts) > _LANE_PARTS:
            return Place(parts[5], parts[4])
    elif stored.startswith(AGAIN):
        parts = stored.split(".", _AGAIN_PARTS)
        if len(parts) > _AGAIN_PARTS:
            return Place(parts[7], parts[6], again=True)
    return Place(stored)


def lane_of_filter(stored: str) -> Lane | None:
    """The lane a consumer's filter is about; ``None`` for one that covers them all, or none."""
    parts = stored.split(".", _LANE_PARTS)
    if not stored.startswith(LANE) or len(parts) <= _LANE_PARTS:
        return None
    generation, number = number_of(parts[2]), number_of(parts[3])
    return None if generation is None or number is None else Lane(generation, number)


def stored_patterns(
    filters: Sequence[str], *, stream: str = "", queue: str | None = None, lane: Lane | None = None
) -> tuple[str, ...]:
    """What a consumer of a stream with lanes must filter by: of one lane its messages and its group's next attempts."""
    asked = filters or (">",)
    if lane is None:
        return tuple(f"{LANE}*.*.*.{each}" for each in asked)
    where = f"{lane.generation}.{lane.number}.*"
    first = [f"{LANE}{where}.{each}" for each in asked]
    return (*first, *(f"{AGAIN}{stream}.{queue}.{where}.{each}" for each in asked))
