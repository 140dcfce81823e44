"""Where messages go. Ids become subjects only through ``Subject.token``: no client's id can reach another room."""

from __future__ import annotations

from typing import Final

from broker import Subject

BATTLE_SETTLE: Final = "battle.settle"
"""Stream tier: a battle's result, once per battle."""
LEADERBOARD_UPDATE: Final = "leaderboard.update"
"""Stream tier: points, once per event."""


def battle_state(room: str) -> str:
    """Core tier: the room's frames."""
    return f"battle.{Subject.token(room)}.state"


def battle_command(room: str, player: str) -> str:
    """Core tier: one player's commands. The player in the subject is the one the server let publish there."""
    return f"battle.{Subject.token(room)}.cmd.{Subject.token(player)}"


def battle_commands(room: str) -> str:
    """The pattern of all commands for a room."""
    return f"battle.{Subject.token(room)}.cmd.*"


def commanding_player(subject: str) -> str:
    """The player whose command subject this is."""
    return subject.rpartition(".")[2]
