"""Sizes and protocol headers as they would be on the NATS wire."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from broker.contracts.envelopes import readdressed
from broker.contracts.errors import PayloadTooLarge
from broker.contracts.headers import MARKER, MESSAGE_ID, Headers
from broker.contracts.key_value import OPERATION
from broker.contracts.lanes import key_token, keyed_subject, no_key_token

if TYPE_CHECKING:
    from broker.contracts.envelopes import Record

TTL: Final = "Nats-TTL"
ROLLUP: Final = ("Nats-Rollup", "sub")

_FRAME: Final = len("NATS/1.0\r\n") + len("\r\n")
_PER_PAIR: Final = len(": \r\n")
_FILE_OVERHEAD: Final = 30
_FILE_HEADERS: Final = 4
_MEMORY_OVERHEAD: Final = 16
NO_RESPONDERS: Final = Headers(status=503, status_text="No Responders")


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def headers_size(headers: Headers | None) -> int:
    """Bytes of the header block, 0 when there is none."""
    if headers is None or not headers.pairs:
        return 0
    return _FRAME + sum(_bytes(name) + _bytes(value) + _PER_PAIR for name, value in headers.pairs)


def check_payload(subject: str, data: bytes, headers: Headers | None, limit: int) -> int:
    """The size of body and headers.

    Raises:
        PayloadTooLarge: it is over the limit.
    """
    size = len(data) + headers_size(headers) if headers is not None else len(data)
    if size > limit:
        raise PayloadTooLarge(size=size, limit=limit, subject=subject)
    return size


def stored_size(storage: str, subject: str, payload: int, block: int) -> int:
    """Bytes the server accounts for one stored message of ``payload`` bytes and a header block of ``block``."""
    total = _bytes(subject) + payload + block
    if storage == "memory":
        return total + _MEMORY_OVERHEAD
    return total + _FILE_OVERHEAD + (_FILE_HEADERS if block else 0)


def keyed_record(record: Record) -> Record:
    """The same record on the subject that a stream with lanes captures."""
    key = record.ordering_key
    token = no_key_token(record.message_id) if key is None else key_token(key)
    return readdressed(record, keyed_subject(token, record.subject))


def record_headers(record: Record) -> Headers:
    """The headers a record is stored with: the caller's and those that carry the protocol."""
    pairs = record.headers.pairs if record.headers is not None else ()
    own = [(MESSAGE_ID, record.message_id)]
    if record.ttl is not None:
        own.append((TTL, f"{record.ttl}s"))
    if record.rollup:
        own.append(ROLLUP)
    return Headers((*pairs, *own))


def marker_headers(ttl: float) -> Headers:
    """The headers of what a server stores in place of a subject's last message once that has expired."""
    return Headers(((MARKER, "MaxAge"), (TTL, f"{ttl:g}s"), ROLLUP))


def is_tombstone(headers: Headers | None) -> bool:
    """Whether it says that its subject is gone already: its own expiry is no news to anybody."""
    return headers is not None and (MARKER in headers or headers.get(OPERATION) == "PURGE")
