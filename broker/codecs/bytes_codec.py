"""No encoding at all: for callers who bring their own bytes."""

from __future__ import annotations

from typing import Any, TypeVar

from broker.contracts.codec import Codec
from broker.contracts.errors import DecodeError, EncodeError

T = TypeVar("T")


class BytesCodec(Codec):
    """Refuses everything but bytes, so that a forgotten encode is found at once."""

    def encode(self, body: Any) -> bytes:
        """See ``Codec``. ``bytes`` never reach a codec, so whatever does is a mistake."""
        raise EncodeError(f"this broker sends bytes only, not {type(body).__name__}")

    def decode(self, data: bytes, into: type[T]) -> T:
        """See ``Codec``: ``bytes`` itself is the only type there is."""
        if not isinstance(data, into):
            raise DecodeError(f"this broker decodes to bytes only, not to {into.__name__}")
        return data

    def loads(self, data: bytes) -> Any:
        """The bytes as they came."""
        return data
