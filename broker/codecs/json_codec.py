"""JSON: orjson for encoding and plain values, msgspec for typed decoding."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
import orjson

from broker.contracts.codec import Codec
from broker.contracts.errors import DecodeError, EncodeError

T = TypeVar("T")


class JsonCodec(Codec):
    """The default. Encodes what orjson does (dataclasses, datetimes, UUIDs, enums) and msgspec Structs."""

    def encode(self, body: Any) -> bytes:
        """See ``Codec``. NaN and infinity become ``null``, as JSON has no word for them."""
        try:
            return orjson.dumps(body, default=msgspec.to_builtins)
        except (TypeError, ValueError, RecursionError) as exc:
            raise EncodeError(f"cannot encode {type(body).__name__} as JSON: {exc}") from exc

    def decode(self, data: bytes, into: type[T]) -> T:
        """See ``Codec``. Types and ranges are checked by msgspec's rules; nothing is coerced."""
        try:
            return msgspec.json.decode(data, type=into)
        except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as exc:
            raise DecodeError(f"not a {getattr(into, '__name__', into)} in JSON: {exc}") from exc

    def loads(self, data: bytes) -> Any:
        """See ``Codec``."""
        try:
            return orjson.loads(data)
        except (ValueError, RecursionError) as exc:
            raise DecodeError(f"not JSON: {exc}") from exc
