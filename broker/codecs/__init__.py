"""Codecs: how bodies become bytes. JSON is the default; a codec is any object with the ``Codec`` methods."""

from broker.codecs.bytes_codec import BytesCodec
from broker.codecs.json_codec import JsonCodec
from broker.codecs.msgpack_codec import MsgpackCodec
from broker.contracts.codec import Codec
from broker.contracts.errors import InvalidOption

_METHODS = ("encode", "decode", "loads")

__all__ = ["BytesCodec", "JsonCodec", "MsgpackCodec", "checked_codec"]


def checked_codec(codec: Codec | None) -> Codec:
    """The codec given, JSON when none is.

    Raises:
        InvalidOption: it is no codec.
    """
    if codec is None:
        return JsonCodec()
    missing = [method for method in _METHODS if not callable(getattr(codec, method, None))]
    if missing or isinstance(codec, type):
        lacks = f" (it has no {', '.join(missing)})" if missing else ""
        raise InvalidOption(f"codec={codec!r}: must be a codec, such as JsonCodec(){lacks}", option="codec")
    return codec
