"""MessagePack through msgspec: smaller than JSON, same types."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from broker.codecs.order import sets_in_order
from broker.codecs.size import check_size, checked_size
from broker.contracts.codec import Codec
from broker.contracts.errors import DecodeError, EncodeError

T = TypeVar("T")


class MsgpackCodec(Codec):
    """Encodes what msgspec does: builtins, dataclasses, Structs, datetimes, UUIDs, bytes.

    Args:
        max_bytes: of a body that is decoded at all; ``None``: what the server lets through.
    """

    def __init__(self, *, max_bytes: int | None = None) -> None:
        self._max_bytes = checked_size(max_bytes)

    def encode(self, body: Any) -> bytes:
        """See ``Codec``. Sets and dicts are sorted."""
        try:
            return _encoded(body)
        except (TypeError, ValueError, OverflowError, RecursionError) as exc:
            raise EncodeError(f"cannot encode {type(body).__name__} as MessagePack: {exc}") from exc

    def decode(self, data: bytes, into: type[T]) -> T:
        """See ``Codec``."""
        if self._max_bytes is not None:
            check_size(data, self._max_bytes)
        try:
            return msgspec.msgpack.decode(data, type=into)
        except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as exc:
            raise DecodeError(f"not a {getattr(into, '__name__', into)} in MessagePack: {exc}") from exc

    def loads(self, data: bytes) -> Any:
        """See ``Codec``."""
        return self.decode(data, object)


def _encoded(body: Any) -> bytes:
    try:
        return msgspec.msgpack.encode(body, order="deterministic")
    except TypeError:  # members that cannot be compared
        return msgspec.msgpack.encode(sets_in_order(body, msgspec.msgpack.encode))
