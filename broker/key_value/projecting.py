"""``Projection``: values built from messages in their order, each kept with the last sequence in one write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.codecs.json_codec import JsonCodec
from broker.contracts.errors import InvalidOption
from broker.contracts.key_errors import WriteUnknown
from broker.contracts.lanes import group_of
from broker.reading import NOT_ON_LOAN

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.key_value.bucket import KeyValue
    from broker.key_value.entries import KeyEntry
    from broker.messages import StreamMessage

_JSON = JsonCodec()


class Projection:
    """What follows from messages, once for each of them, in a bucket instead of a database.

    A key's value and the sequence of the message that made it so are one write; a message whose sequence is not above
    it was applied before and changes nothing. That is exactly once as long as a key's messages come in their order,
    so it takes those of ``consume(ordered=True)`` (one ordering key for each key) and of ``read``, and no others:
    where a later message can overtake an earlier one that failed, the earlier one would be taken for applied.

    What is deleted or expires in the bucket is forgotten, sequence and all. A stream that was deleted and made again
    counts anew: start with other keys.

    Args:
        bucket: where the values are.
    """

    def __init__(self, bucket: KeyValue) -> None:
        self._bucket = bucket

    async def apply(self, key: str, message: StreamMessage, change: Callable[[Any, StreamMessage], Any]) -> bool:
        """Write what ``change`` makes of the key's value; ``False``: it was applied before.

        Args:
            key: of the bucket; one key takes the messages of one ordering key from one consumer, or of ``read`` with
                the same filters each time.
            message: the next one.
            change: gets the value (``None``: there is none) and the message, and returns the new value, which JSON can
                write. It may be called again when somebody else gets in between.

        Raises:
            InvalidOption: the message did not come in order, or not from where the key's others did.
            SequenceConflict, RequestTimeout, WriteUnknown: not known to be applied; apply the message again.
            And what ``KeyValue.modify`` raises.
        """
        origin = _origin(message)

        def changed(entry: KeyEntry | None) -> bytes:
            kept: Any = {"origin": origin, "sequence": 0, "value": None} if entry is None else entry.json()
            if kept["origin"] != origin:
                told = f"key {key!r} is built from {kept['origin']}; this message is of {origin}"
                raise InvalidOption(told, option="key")
            if message.sequence <= kept["sequence"]:
                raise _AppliedBefore
            value = change(kept["value"], message)
            return _JSON.encode({"origin": origin, "sequence": message.sequence, "value": value})

        try:
            await self._bucket.modify(key, changed)
        except _AppliedBefore:
            return False
        except WriteUnknown:
            return await self._once_more(key, changed)
        return True

    async def get(self, key: str) -> Any:
        """The key's value; ``None`` when there is none. Raises as ``KeyValue.get``."""
        entry = await self._bucket.get(key)
        return None if entry is None else entry.json()["value"]

    async def _once_more(self, key: str, changed: Callable[[KeyEntry | None], bytes]) -> bool:
        """After a write without a word: it is there, or it is made now; either way it was this message's."""
        try:
            await self._bucket.modify(key, changed)
        except _AppliedBefore:
            return True
        return True


class _AppliedBefore(Exception):
    """Ends the attempts."""


def _origin(message: StreamMessage) -> list[str]:
    """Stream, group and ordering key (two groups overtake each other); of what is read, the stream alone."""
    if message.delivery.lane_key is not None and message.settler.in_order:
        return [message.stream, group_of(message.consumer), message.ordering_key or ""]
    if message.settler is NOT_ON_LOAN and message.consumer:  # one that was looked up alone has no consumer
        return [message.stream]
    told = "a projection needs its messages in order: those of consume(ordered=True), with an ordering key, or of read"
    raise InvalidOption(told, option="message")
