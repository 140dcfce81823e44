"""JSON: orjson for encoding and plain values, msgspec for typed decoding."""

from __future__ import annotations

from typing import Any, Final, TypeVar

import msgspec
import orjson

from broker.codecs.depth import deeper_than
from broker.codecs.order import sets_in_order
from broker.codecs.size import check_size, checked_size
from broker.contracts.checks import in_range
from broker.contracts.codec import Codec
from broker.contracts.errors import DecodeError, EncodeError

T = TypeVar("T")

_DEEPEST: Final = 1000


class JsonCodec(Codec):
    """The default. Encodes what orjson does (dataclasses, datetimes, UUIDs, enums) and msgspec Structs.

    What is deeper than a decoder goes (about a thousand levels) is a ``DecodeError`` in any case, as is every number
    that does not fit. For what strangers send, lower limits keep small messages from becoming large objects.

    Args:
        max_bytes: of a body that is decoded at all; ``None``: what the server lets through.
        max_depth: levels of arrays and objects, 1 to 1000, counted beforehand in every body with more brackets than
            that, which costs some times what decoding does; ``None``: what the decoders go to.
    """

    def __init__(self, *, max_bytes: int | None = None, max_depth: int | None = None) -> None:
        self._max_bytes = checked_size(max_bytes)
        self._max_depth = max_depth
        if max_depth is not None:
            in_range("max_depth", max_depth, 1, _DEEPEST, whole=True)
        self._limited = max_bytes is not None or max_depth is not None

    def encode(self, body: Any) -> bytes:
        """See ``Codec``. NaN and infinity become ``null``, as JSON has no word for them.

        Sets are sorted, and so are the keys of dicts in Structs.
        """
        try:
            return _json(body)
        except (TypeError, ValueError, RecursionError) as exc:
            raise EncodeError(f"cannot encode {type(body).__name__} as JSON: {exc}") from exc

    def decode(self, data: bytes, into: type[T]) -> T:
        """See ``Codec``. Types and ranges are checked by msgspec's rules; nothing is coerced."""
        if self._limited:
            self._check(data)
        try:
            return msgspec.json.decode(data, type=into)
        except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as exc:
            raise DecodeError(f"not a {getattr(into, '__name__', into)} in JSON: {exc}") from exc

    def loads(self, data: bytes) -> Any:
        """See ``Codec``."""
        if self._limited:
            self._check(data)
        try:
            return orjson.loads(data)
        except (ValueError, RecursionError) as exc:
            raise DecodeError(f"not JSON: {exc}") from exc

    def _check(self, data: bytes) -> None:
        if self._max_bytes is not None:
            check_size(data, self._max_bytes)
        if self._max_depth is not None and deeper_than(self._max_depth, data):
            raise DecodeError(f"nested deeper than {self._max_depth} levels")


def _json(body: Any) -> bytes:
    return orjson.dumps(body, default=_plain)


def _plain(value: Any) -> Any:
    """What orjson does not know by itself, with the same order in every process."""
    if isinstance(value, set | frozenset):
        return sorted(value, key=_json)
    try:
        return msgspec.to_builtins(value, order="deterministic")
    except TypeError:  # members that cannot be compared
        return msgspec.to_builtins(sets_in_order(value, _json))
