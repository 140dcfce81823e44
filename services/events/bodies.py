"""The bodies of messages between services. Data only; whole numbers wherever money or rank depends on them."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from services.events.limits import BATCH_COMMANDS

MOST_PLAYERS: Final = 1000
"""In one battle."""

Count = Annotated[int, Meta(ge=0, le=2**53)]
"""A whole number that every JSON reader keeps exact."""
Positive = Annotated[int, Meta(ge=1, le=2**53)]
Direction = Annotated[int, Meta(ge=-1, le=1)]
Token = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
"""An id that can stand in a subject."""
Named = Annotated[str, Meta(max_length=64)]
"""An id that is only compared with known ones. No pattern: checking one costs more than the rest of a command."""
Key = Annotated[str, Meta(pattern=r"^[!-~]{1,200}$")]
"""An id that can be an idempotency key."""


class Command(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a player wants done. ``cmd_seq`` grows by at least one per command of a player; see ``CommandNumbers``."""

    player: Named
    cmd_seq: Positive
    client_tick: Count
    kind: Literal["move", "fire"]
    dx: Direction = 0
    dy: Direction = 0
    target: Named = ""


class CommandBatch(Struct, frozen=True, kw_only=True):
    """All commands of a gateway's players for one room in one tick, in the order they came.

    Attributes:
        due: when it was to be sent, nanoseconds since the Unix epoch on the gateway's clock.
        commands: each with its player, of whom the gateway knows that it is them.
    """

    v: int = 1
    due: int
    commands: Annotated[tuple[tuple[Named, Command], ...], Meta(max_length=BATCH_COMMANDS)]


class PlayerResult(Struct, frozen=True, kw_only=True):
    """One player's outcome. Rewards are not in it: settlement computes them from its own rules."""

    player: Token
    place: Positive
    score: Count


class BattleEnded(Struct, frozen=True, kw_only=True):
    """A battle's outcome, frozen: every repeat of it has the same bytes.

    Attributes:
        battle_id: unique for ever; also the idempotency key.
        epoch: of the room's owner that ran it.
        rules_version: which rules turn it into rewards.
        seed: replays the battle, together with its commands.
        ticks: how many it lasted.
        ended_at: nanoseconds since the Unix epoch.
    """

    v: int = 1
    battle_id: Token
    room: Token
    epoch: Count
    rules_version: Positive
    seed: int
    ticks: Count
    ended_at: int
    results: Annotated[tuple[PlayerResult, ...], Meta(max_length=MOST_PLAYERS)]


class LeaderboardUpdate(Struct, frozen=True, kw_only=True):
    """Points for one player on one board, to be counted once.

    Attributes:
        event_id: unique for ever; also the idempotency key.
        points: added to the player's score; negative takes back.
        event_time: when they were earned, nanoseconds since the Unix epoch.
    """

    v: int = 1
    event_id: Key
    board: Token
    player: Token
    points: Annotated[int, Meta(ge=-(2**53), le=2**53)]
    battle_id: str
    event_time: int
