"""What local players' commands wait in until the next tick: the rules only. No ``await``, no clock and no broker.

A gateway knows who is at the other end of a connection. It looks at every command once, so that no client can spoil
a message that carries other players' commands; whether a command comes in time and in order is the room's business.
"""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from typing import Final
from zlib import crc32

import msgspec

from services.events import BATCH_COMMANDS, COMMAND_BURST, COMMAND_BYTES, Command

TURNS: Final = 8
"""Parts of a tick over which rooms are spread, so that a gateway does not send to all of them at one moment."""


class Passing(StrEnum):
    """What became of a command at the door. All but the first are rejections."""

    PASSED = "passed"
    OVERSIZED = "oversized"
    MALFORMED = "malformed"
    FORGED = "forged"
    """It names another player than the one at the other end."""
    FLOODED = "flooded"
    """More of one player since the last tick than a room could take at once."""
    OVERFLOW = "overflow"
    """More for one room since the last tick than a message holds."""


class _Bin:
    __slots__ = ("commands", "per_player")

    def __init__(self) -> None:
        self.commands: list[tuple[str, msgspec.Raw]] = []
        self.per_player: dict[str, int] = {}


class Door:
    """Players' commands by room, in the order they came. Every one is counted, none silently dropped."""

    def __init__(self) -> None:
        self.counts: Counter[Passing] = Counter()
        self._decode = msgspec.json.Decoder(Command).decode
        self._bins: tuple[dict[str, _Bin], ...] = tuple({} for _ in range(TURNS))

    def offer(self, room: str, player: str, data: bytes) -> Passing:
        """Take a command as it came from ``player``'s own connection, or not."""
        passing = self._look(room, player, data)
        self.counts[passing] += 1
        return passing

    def take(self, turn: int) -> list[tuple[str, list[tuple[str, msgspec.Raw]]]]:
        """What waits for each of the rooms whose turn it is; every room has one in ``TURNS``."""
        bins = self._bins[turn % TURNS]
        taken = [(room, each.commands) for room, each in bins.items()]
        bins.clear()
        return taken

    def _look(self, room: str, player: str, data: bytes) -> Passing:
        if len(data) > COMMAND_BYTES:
            return Passing.OVERSIZED
        try:
            command = self._decode(data)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return Passing.MALFORMED
        if command.player != player:
            return Passing.FORGED
        bins = self._bins[crc32(room.encode()) % TURNS]
        waiting = bins.get(room)
        if waiting is None:
            waiting = bins[room] = _Bin()
        if len(waiting.commands) >= BATCH_COMMANDS:
            return Passing.OVERFLOW
        sent = waiting.per_player.get(player, 0)
        if sent >= COMMAND_BURST:
            return Passing.FLOODED
        waiting.per_player[player] = sent + 1
        # The client's own bytes, now known to be one command: they are not encoded a second time.
        waiting.commands.append((player, msgspec.Raw(data)))
        return Passing.PASSED
