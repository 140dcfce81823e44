"""The bodies of messages between services. Data only; whole numbers wherever money or rank depends on them."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

Count = Annotated[int, Meta(ge=0, le=2**53)]
"""A whole number that every JSON reader keeps exact."""
Positive = Annotated[int, Meta(ge=1, le=2**53)]
Direction = Annotated[int, Meta(ge=-1, le=1)]
Token = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
"""An id that can stand in a subject."""
Key = Annotated[str, Meta(pattern=r"^[!-~]{1,200}$")]
"""An id that can be an idempotency key."""


class Command(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a player wants done. ``cmd_seq`` grows by at least one per command of a player."""

    player: Token
    cmd_seq: Positive
    client_tick: Count
    kind: Literal["move", "fire"]
    dx: Direction = 0
    dy: Direction = 0
    target: str = ""


class PlayerState(Struct, frozen=True, kw_only=True):
    """A player as everyone sees them."""

    player: str
    x: int
    y: int
    hp: int
    score: int


class FrameHeader(Struct, frozen=True, kw_only=True):
    """What every frame begins with.

    Attributes:
        v: version of this layout.
        epoch: grows when the room gets a new owner; a frame of a lower epoch is stale.
        seq: per room and epoch, one more with every frame: a gap is a lost frame.
        tick: the owner's tick; skipped ticks leave gaps here and not in ``seq``.
        ts_pub: nanoseconds since the Unix epoch on the publisher's clock, just before publishing.
    """

    v: int = 1
    room: str
    epoch: int
    seq: int
    tick: int
    ts_pub: int


class Frame(FrameHeader, frozen=True, kw_only=True):
    """The whole state of a room.

    Attributes:
        phase: ``finishing`` while the result of the last battle is being stored.
        ack: player -> the highest ``cmd_seq`` taken from them.
    """

    battle_id: str
    phase: Literal["running", "finishing"]
    players: tuple[PlayerState, ...]
    ack: dict[str, int]


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
    results: tuple[PlayerResult, ...]


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
