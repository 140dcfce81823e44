"""Storing messages: one id for every attempt, retried until the server has said what became of it."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from typing import TYPE_CHECKING, Final

from broker.contracts.envelopes import Expect, Record
from broker.contracts.errors import InvalidKey, InvalidOption
from broker.contracts.headers import KEY, ORDERING_KEY, Headers
from broker.contracts.options import in_range
from broker.contracts.subjects import publish_subject
from broker.flight import Flight
from broker.messages import encode_body
from broker.storing import Storing

if TYPE_CHECKING:
    from collections.abc import Iterable

    from broker.contracts.backend import StreamBackend
    from broker.contracts.codec import Codec
    from broker.contracts.envelopes import Entry, Receipt

_MAX_KEY_BYTES: Final = 255
_BAD_KEY: Final = re.compile(r"[\x00-\x1f\x7f]")
_ID_BYTES: Final = 16
_GENERATED: Final = "gamebroker~"
_GENERATED_KEY: Final = re.compile(rf"{_GENERATED}[0-9a-f]{{16}}-\d+\Z")


def wire_id(subject: str, key: str) -> str:
    """The id the server deduplicates by: of the subject and the key, so that two message types never collide.

    The server's window is per stream, not per subject; the digest keeps it short whatever the key. A generated key
    needs none, and comes back to the same id when the caller uses what ``EnqueueUnknown`` carries.
    """
    if key.startswith(_GENERATED) and _GENERATED_KEY.match(key):
        return f"{key}@{subject}"
    return hashlib.blake2b(f"{subject}\0{key}".encode(), digest_size=_ID_BYTES).hexdigest()


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


class Enqueuer:
    """Turns entries into records and sees each through to a receipt or a typed error."""

    def __init__(self, backend: StreamBackend, codec: Codec) -> None:
        self._backend = backend
        self._codec = codec
        self._prefix = f"{_GENERATED}{os.urandom(8).hex()}-"
        self._counter = 0

    def record(self, entry: Entry) -> tuple[Record, str]:
        """The entry as the backend takes it, and the key that names it.

        Raises:
            InvalidSubject, InvalidKey, InvalidHeader, InvalidOption, EncodeError: at once; nothing was sent.
        """
        subject, body, key, ordering_key, given, ttl, expect = entry
        publish_subject(subject)
        data = body if type(body) is bytes else encode_body(self._codec, body)
        headers = None if given is None else Headers.checked(given)
        if key is None:
            self._counter += 1
            key = f"{self._prefix}{self._counter}"
            message_id = f"{key}@{subject}"
        else:
            pair = (KEY, check_key(key))
            headers = headers.adding(pair) if headers else Headers((pair,))
            message_id = wire_id(subject, key)
        if ordering_key is not None:
            pair = (ORDERING_KEY, check_key(ordering_key, "ordering_key"))
            headers = headers.adding(pair) if headers else Headers((pair,))
        if ttl is None and expect is None:
            return Record(subject, data, headers, message_id), key
        if expect is not None and not isinstance(expect, Expect):
            raise InvalidOption(f"expect={expect!r}: must be an Expect", option="expect")
        return Record(subject, data, headers, message_id, _whole_ttl(ttl), expect), key

    async def enqueue(self, entry: Entry, timeout: float) -> Receipt:
        """Store one message."""
        in_range("timeout", timeout, 0)
        record, key = self.record(entry)
        return await self.store(record, key, deadline=asyncio.get_running_loop().time() + timeout)

    async def store(self, record: Record, key: str, *, deadline: float) -> Receipt:
        """See one record through (see ``Storing``)."""
        return await Storing(self._backend, record, key, deadline).receipt()

    async def enqueue_many(self, entries: Iterable[Entry], *, window: int, timeout: float) -> list[Receipt]:
        """Store many, at most ``window`` in flight; receipts in the order given."""
        in_range("window", window, 1, whole=True)
        in_range("timeout", timeout, 0)
        flight = Flight(self.record, self._backend, window, timeout)
        try:
            await flight.take(entries)
        finally:
            flight.abandon()
        return flight.receipts()


def _whole_ttl(ttl: float | None) -> int | None:
    if ttl is None:
        return None
    in_range("ttl", ttl, 1)
    if ttl != int(ttl):
        raise InvalidOption(f"ttl={ttl!r}: the server counts whole seconds", option="ttl")
    return int(ttl)
