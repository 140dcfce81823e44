"""Counters as the server stores them: the newest message of a subject holds the sum."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import MsgspecError, Struct
from msgspec.json import Decoder

from broker.backends.nats.appending import INCREMENT

if TYPE_CHECKING:
    from broker.backends.nats.admin import Admin


class _Counter(Struct):
    val: str


_decode: Final = Decoder(_Counter).decode


async def counter_value(admin: Admin, stream: str, subject: str, sequence: int | None) -> int | None:
    """The sum, 0 when nothing was added yet; ``None`` when what is stored there is no counter."""
    last_of = subject if sequence is None else None
    message = await admin.get_message(stream, sequence=sequence, last_of=last_of)
    if message is None and sequence is not None:
        return None
    if message is None:
        return 0 if (await admin.stream_info(stream)).config.counters else None
    if message.headers is None or message.headers.get(INCREMENT) is None:
        return None
    try:
        return int(_decode(message.data).val)
    except (MsgspecError, ValueError):
        return None
