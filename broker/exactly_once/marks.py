"""The mark a message leaves when it is applied: what tells it from every other message. No I/O."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final, NamedTuple

from broker.contracts.errors import InvalidOption
from broker.keys import check_key, identity_of

if TYPE_CHECKING:
    from broker.contracts.options import StreamOptions
    from broker.messages import StreamMessage

_LONGEST: Final = 1_000
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
    """The sender's idempotency key; without one its identity, after a blank, with which no key begins."""
    key = message.idempotency_key
    return nameless(identity_of(message.delivery)) if not key else check_key(key)


def nameless(identity: str) -> str:
    """The mark's key of a message without one; a digest if PostgreSQL could not hold what another client made up."""
    if len(identity) > _LONGEST or not identity.isascii() or "\0" in identity:
        identity = "sha256:" + hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()
    return f" {identity}"


def check_names(config: StreamOptions) -> None:
    """Raises ``InvalidOption`` for a stream that renames: inbox and outbox would know a message by two names."""
    if config.subject_transform is not None:
        told = f"stream={config.name!r} has a subject_transform: a message is not stored by the subject it was sent to"
        raise InvalidOption(told, option="stream")
