"""The mark a message leaves when it is applied: what tells it from every other message. No I/O."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final, NamedTuple

from broker.contracts.headers import KEY, MESSAGE_ID
from broker.keys import check_key

if TYPE_CHECKING:
    from broker.messages import StreamMessage


_LONGEST_ID: Final = 1_000
"""Characters; an entry of PostgreSQL's index has room for 2,700 bytes."""


class Mark(NamedTuple):
    """One message as the inbox knows it; sorts by what it is found by, so that no two workers lock in circles.

    Attributes:
        subject: keys are namespaced by it, as on the way into the stream.
        key: see ``key_of``.
        digest: SHA-256 of the body.
        stream: that stores it.
        sequence: its number there.
    """

    subject: str
    key: str
    digest: bytes
    stream: str
    sequence: int


def mark_of(message: StreamMessage) -> Mark:
    """The mark of a message.

    Raises:
        InvalidKey: it bears a key that no broker of ours sends, and no database may be able to hold.
    """
    digest = hashlib.sha256(message.data).digest()
    return Mark(message.subject, key_of(message), digest, message.stream, message.sequence)


def key_of(message: StreamMessage) -> str:
    """The sender's idempotency key; without one the id it was stored under, else stream and sequence.

    The latter two begin with a blank, which no key does. In a lane there is no id to go by: the next attempt at a
    message is stored anew, under another one. Its sequence stays that of the original.
    """
    delivery = message.delivery
    headers = delivery.headers
    if headers is not None:
        if key := headers.get(KEY):
            return check_key(key)
        if delivery.lane_key is None and (stored_as := headers.get(MESSAGE_ID)):
            return f" id:{_storable(stored_as)}"
    return f" at:{delivery.stream}/{delivery.sequence}@{delivery.timestamp_ns}"


def _storable(text: str) -> str:
    """The id itself, unless other clients have made one that PostgreSQL does not take or cannot put into an index."""
    if len(text) <= _LONGEST_ID and "\0" not in text and text.isascii():
        return text
    return "sha256:" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
