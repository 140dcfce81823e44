"""One revision of a key, as users get it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

from broker.codecs.json_codec import JsonCodec
from broker.contracts.key_value import Operation, operation_of

if TYPE_CHECKING:
    from broker.contracts.codec import Codec
    from broker.contracts.envelopes import Delivery, StoredMessage

T = TypeVar("T")

_JSON: Final = JsonCodec()
_NS_PER_SECOND: Final = 1_000_000_000


class KeyEntry:
    """A revision of a key.

    Attributes:
        bucket: where.
        key: which.
        value: bytes as they were put; empty when the key was deleted or has expired.
        revision: its number in the bucket, from 1. Only grows, over all keys, so it serves as a fencing number.
        operation: whether it has a value, or how that went.
    """

    __slots__ = ("_codec", "_timestamp_ns", "bucket", "key", "operation", "revision", "value")

    def __init__(self, message: Delivery | StoredMessage, bucket: str, key: str, codec: Codec) -> None:
        self.bucket = bucket
        self.key = key
        self.value = message.data
        self.revision = message.sequence
        self.operation = operation_of(message.headers)
        self._timestamp_ns = message.timestamp_ns
        self._codec = codec

    @property
    def deleted(self) -> bool:
        """Whether the key has no value (any more): deleted, purged or expired."""
        return self.operation is not Operation.PUT

    @property
    def created(self) -> datetime:
        """When it was stored, by the server's clock (UTC)."""
        seconds, rest = divmod(self._timestamp_ns, _NS_PER_SECOND)
        return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest // 1000)

    def json(self) -> Any:
        """The value as plain builtins.

        Raises:
            DecodeError: it is not JSON.
        """
        return _JSON.loads(self.value)

    def decode(self, into: type[T]) -> T:
        """The value as that type, by the broker's codec.

        Raises:
            DecodeError: malformed, or of another shape.
        """
        return self._codec.decode(self.value, into)

    def __repr__(self) -> str:
        return f"KeyEntry({self.key!r}, {self.operation}, revision={self.revision}, {len(self.value)} bytes)"
