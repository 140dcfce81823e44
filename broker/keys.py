"""Keys: the caller's name for an effect that happens once, and the id the server knows it by."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Final

from broker.contracts.errors import InvalidKey, InvalidOption
from broker.contracts.headers import KEY, MESSAGE_ID, STORED_AS

if TYPE_CHECKING:
    from broker.contracts.envelopes import Delivery, Record

GENERATED: Final = "gamebroker~"
"""Begins every key that we make because the caller gave none."""
_MAX_KEY_BYTES: Final = 255
_BAD_KEY: Final = re.compile(r"[\x00-\x1f\x7f]")
_ID_BYTES: Final = 16
_SHORTEST_SECRET: Final = 16
_GENERATED_KEY: Final = re.compile(rf"{GENERATED}[0-9a-f]{{16}}-\d+\Z")


def generated_id(subject: str, key: str) -> str:
    """The wire id of a key that we made: unique already, and short."""
    return f"{key}@{subject}"


def derived_secret(secret: object) -> bytes:
    """What ids are made with, from what the caller keeps secret.

    Raises:
        InvalidOption: neither bytes nor text, or so short that it could be guessed. It is not shown.
    """
    if not isinstance(secret, str | bytes):
        raise InvalidOption(f"id_secret: must be text or bytes, not {type(secret).__name__}", option="id_secret")
    told = secret.encode() if isinstance(secret, str) else secret
    if len(told) < _SHORTEST_SECRET:
        raise InvalidOption(f"id_secret: must have at least {_SHORTEST_SECRET} bytes", option="id_secret")
    return hashlib.blake2b(told, digest_size=32, person=b"gamebroker ids").digest()


def wire_id(subject: str, key: str, secret: bytes = b"") -> str:
    """The id the server deduplicates by: of the subject and the key, so that two message types never collide.

    The server's window is per stream, not per subject; the digest keeps it short whatever the key. A generated key
    needs none, and comes back to the same id when the caller uses what ``EnqueueUnknown`` carries. With a secret nobody
    else can tell which id a key has, and have it dropped by sending that id first.
    """
    if key.startswith(GENERATED) and _GENERATED_KEY.match(key):
        return generated_id(subject, key)
    return hashlib.blake2b(f"{subject}\0{key}".encode(), digest_size=_ID_BYTES, key=secret).hexdigest()


def check_key(key: object, option: str = "idempotency_key") -> str:
    """The key itself when it is one.

    Raises:
        InvalidKey: not text, empty, over 255 bytes, blank at an end, or with control characters.
    """
    if isinstance(key, str) and 0 < len(key) <= _MAX_KEY_BYTES and key.isascii() and key.isprintable():
        if key[0] != " " != key[-1]:
            return key
    elif not isinstance(key, str):
        raise InvalidKey(f"{option} must be text, not {type(key).__name__}")
    try:
        size = len(key.encode())
    except UnicodeEncodeError as exc:
        raise InvalidKey(f"{option} {key!r} is not encodable as UTF-8") from exc
    if not 1 <= size <= _MAX_KEY_BYTES:
        raise InvalidKey(f"{option} has {size} bytes: must be 1 to {_MAX_KEY_BYTES}")
    if key != key.strip() or _BAD_KEY.search(key):
        raise InvalidKey(f"{option} {key!r} has blanks at an end or control characters")
    return key


def key_of(record: Record) -> str:
    """What its sender may use as ``idempotency_key=`` to enqueue the same message again."""
    own = record.headers.get(KEY) if record.headers is not None else None
    return own or record.message_id.removesuffix(generated_id(record.subject, ""))


def identity_of(delivery: Delivery) -> str:
    """What a stored message without a key is known by: the id it was stored under, else stream, sequence and time.

    Its replay from the dead letters is known by the same. In a lane there is no id to go by: the next attempt at a
    message is stored anew, under another one. Its sequence stays that of the original.
    """
    headers = delivery.headers
    if headers is not None:
        if stored_as := headers.get(STORED_AS):
            return stored_as
        if delivery.lane_key is None and (message_id := headers.get(MESSAGE_ID)):
            return f"id:{message_id}"
    return f"at:{delivery.stream}/{delivery.sequence}@{delivery.timestamp_ns}"
