"""Where messages go. Ids become subjects only through ``Subject.token``: no client's id can reach another room."""

from __future__ import annotations

from typing import Final

from broker import Subject

BATTLE_SETTLE: Final = "battle.settle"
"""Stream tier: a battle's result, once per battle."""
LEADERBOARD_UPDATE: Final = "leaderboard.update"
"""Stream tier: points, once per event."""
PLAYERS_MAIL: Final = "mail.*"
"""Stream tier: the pattern of all players' mail, one token for the player."""
AUDIT_RECORDS: Final = "audit.*"
"""Stream tier: the pattern of all audit records, one token for the service that did it."""
BATTLE_COMMANDS: Final = "battle.*.cmd.*"
"""The pattern of all commands, of players and of gateways, for all rooms."""
BATTLE_STATES: Final = "battle.*.state"
"""The pattern of all rooms' frames."""


def player_mail(player: str) -> str:
    """Stream tier: one player's mail, letters and claims alike."""
    return f"mail.{Subject.token(player)}"


def mail_recipient(subject: str) -> str:
    """The player of a subject that matches ``PLAYERS_MAIL``.

    Raises:
        InvalidSubject: that is no player's id.
    """
    return Subject.token(subject.removeprefix("mail."))


def audit_source(subject: str) -> str:
    """The service of a subject that matches ``AUDIT_RECORDS``: the server lets nobody else publish there.

    Raises:
        InvalidSubject: that is no service's name.
    """
    return Subject.token(subject.removeprefix("audit."))


def battle_state(room: str) -> str:
    """Core tier: the room's frames."""
    return f"battle.{Subject.token(room)}.state"


def battle_command(room: str, player: str) -> str:
    """Core tier: one player's commands. The player in the subject is the one the server let publish there."""
    return f"battle.{Subject.token(room)}.cmd.{Subject.token(player)}"


def battle_batch(room: str, gateway: str) -> str:
    """Core tier: the commands of one gateway's players. No player's id begins with ``@``, so none can pose as one."""
    return f"battle.{Subject.token(room)}.cmd.@{Subject.token(gateway)}"


def command_sender(subject: str) -> tuple[str, str]:
    """The room and the sender of a subject that matches ``BATTLE_COMMANDS``; a gateway's name keeps its ``@``."""
    _, room, _, sender = subject.split(".")
    return room, sender


def gateway_input(gateway: str, room: str, player: str) -> str:
    """Core tier: one player's commands to their gateway. The server lets nobody else publish there."""
    return f"gateway.{Subject.token(gateway)}.in.{Subject.token(room)}.{Subject.token(player)}"


def gateway_inputs(gateway: str) -> str:
    """The pattern of all that a gateway's players send."""
    return f"gateway.{Subject.token(gateway)}.in.*.*"


def gateway_output(gateway: str, room: str, player: str) -> str:
    """Core tier: what one player sees of a room, from their gateway."""
    return f"gateway.{Subject.token(gateway)}.out.{Subject.token(room)}.{Subject.token(player)}"
