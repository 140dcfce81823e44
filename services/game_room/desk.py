"""Where commands for all rooms of a process arrive: which room, whose, and whether it is a command at all.

The rules only: no ``await``, no clock and no broker in this file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from services.events import BATCH_BYTES, COMMAND_BYTES, Command, CommandBatch, command_sender
from services.game_room.commands import Ruling
from services.pacing import Lateness

if TYPE_CHECKING:
    from collections.abc import Iterable

    from services.game_room.room import Room


class Desk:
    """Hands each command to its room in the order it came. What is not a command is counted by that room.

    Attributes:
        batches: messages of gateways, with ``direct`` ones of players.
        elsewhere: messages for rooms of other processes.
        hops: of batches, from when they were due to be sent until here.
    """

    def __init__(self, rooms: Iterable[Room]) -> None:
        self.batches = 0
        self.direct = 0
        self.elsewhere = 0
        self.hops = Lateness()
        self._rooms = {room.room: room for room in rooms}
        self._command = msgspec.json.Decoder(Command).decode
        self._batch = msgspec.json.Decoder(CommandBatch).decode

    def take(self, subject: str, data: bytes, *, now_ns: int) -> None:
        """Take in one message on ``BATTLE_COMMANDS`` that arrived at ``now_ns``, nanoseconds since the Unix epoch."""
        name, sender = command_sender(subject)
        room = self._rooms.get(name)
        if room is None:
            self.elsewhere += 1
        elif sender[0] == "@":
            self.batches += 1
            self._take_batch(room, data, now_ns)
        else:
            self.direct += 1
            self._take_command(room, sender, data)

    def _take_batch(self, room: Room, data: bytes, now_ns: int) -> None:
        if len(data) > BATCH_BYTES:
            room.intake.reject(Ruling.OVERSIZED)
            return
        try:
            batch = self._batch(data)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            # The gateway looked at every command in it: a batch that cannot be read is one mistake, not a player's.
            room.intake.reject(Ruling.MALFORMED)
            return
        self.hops.record((now_ns - batch.due) / 1e9)
        offer, tick = room.intake.offer, room.tick_number
        for player, command in batch.commands:
            offer(player, command, tick=tick)

    def _take_command(self, room: Room, player: str, data: bytes) -> None:
        if len(data) > COMMAND_BYTES:
            room.intake.reject(Ruling.OVERSIZED)
            return
        try:
            command = self._command(data)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            room.intake.reject(Ruling.MALFORMED)
            return
        room.offer(player, command)
