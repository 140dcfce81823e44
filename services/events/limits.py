"""What players' commands may cost a room: the limits that both ends of the wire know."""

from __future__ import annotations

from typing import Final

COMMAND_BYTES: Final = 512
"""Of one command as a client sends it."""
COMMAND_BURST: Final = 20
"""Commands a player may send at once after being quiet."""
COMMAND_RATE: Final = 60
"""Commands per second a player may send for long."""
COMMAND_WINDOW: Final = 64
"""How far a ``cmd_seq`` may run ahead of the last one the room took; also how far back it tells repeats."""
PER_TICK: Final = 4
"""Commands of one player in one gateway's message to one room, and applied in one tick; the rest wait."""
BATCH_COMMANDS: Final = 128
"""Commands in one gateway's message to one room, and commands a room holds for its next ticks."""
BATCH_BYTES: Final = BATCH_COMMANDS * (COMMAND_BYTES + 128)
"""Of one gateway's message to one room: every command at its largest, each with its player's id."""
