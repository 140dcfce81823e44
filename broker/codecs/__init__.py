"""Codecs: how bodies become bytes. JSON is the default; a codec is any object with the ``Codec`` methods."""

from broker.codecs.bytes_codec import BytesCodec
from broker.codecs.json_codec import JsonCodec
from broker.codecs.msgpack_codec import MsgpackCodec

__all__ = ["BytesCodec", "JsonCodec", "MsgpackCodec"]
