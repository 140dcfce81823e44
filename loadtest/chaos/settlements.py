"""What is settled: a transfer from the mint to a player, and how it looks on the wire. No I/O."""

from __future__ import annotations

import zlib
from typing import Final

import msgspec
from msgspec import Struct

SUBJECT: Final = "chaos.settle"
STREAM: Final = "CHAOS"
WORKERS: Final = "chaos-settle"
"""The name the workers share."""
MINT: Final = "mint"
POISON: Final = "poison"
"""The account that no handler survives."""
_PLAYERS: Final = 500
_MOST: Final = 1000


class Settlement(Struct, frozen=True, forbid_unknown_fields=True):
    """``amount`` from the mint to ``account``, once per ``key``."""

    key: str
    account: str
    amount: int


_decoder: Final = msgspec.json.Decoder(Settlement)


def settlement_of(key: str) -> Settlement:
    """The one this key stands for: whoever knows the key can say it again, byte for byte."""
    number = zlib.crc32(key.encode())
    return Settlement(key, f"player-{number % _PLAYERS}", 1 + number // _PLAYERS % _MOST)


def body_of(settlement: Settlement) -> bytes:
    """As it goes on the wire."""
    return msgspec.json.encode(settlement)


def read(body: bytes) -> Settlement:
    """A settlement from the wire.

    Raises:
        ValueError: it is none.
    """
    try:
        settlement = _decoder.decode(body)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise ValueError(f"not a settlement: {exc}") from exc
    if not settlement.key or not 0 < settlement.amount <= _MOST:
        raise ValueError(f"not a settlement: {settlement.key!r}, amount {settlement.amount}")
    return settlement
