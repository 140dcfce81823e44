"""A room as it is seen: what the state in its frames means. Data only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Mapping

BATTLE: Final = "battle"
"""The entity that is the battle itself; its fields are those of ``BattleState``."""
PLAYER: Final = "player."
"""With an id behind it, the entity that is a player; no id holds a dot. Its fields are those of ``PlayerState``."""

_NS: Final = 1_000_000_000


class BattleState(Struct, frozen=True, kw_only=True):
    """What is true of the whole room.

    Attributes:
        id: of the battle.
        phase: ``finishing`` while its result is being stored.
        began: when tick 0 was due, nanoseconds since the Unix epoch on the room's clock.
        tick_rate: ticks per second.
    """

    id: str
    phase: Literal["running", "finishing"]
    began: int
    tick_rate: int


class PlayerState(Struct, frozen=True, kw_only=True):
    """A player as everyone sees them; ``ack`` is the highest ``cmd_seq`` taken from them, 0 for none."""

    x: int
    y: int
    hp: int
    score: int
    ack: int


@dataclass(frozen=True, slots=True)
class View:
    """One room as of one of its frames.

    Attributes:
        epoch: grows when the room gets a new owner.
        tick: the owner's tick; skipped ticks leave gaps.
        sent: nanoseconds since the Unix epoch on the owner's clock, just before publishing.
        state: entity -> fields, whole. Not to be changed: every viewer gets the same one.
    """

    room: str
    epoch: int
    tick: int
    sent: int
    state: Mapping[str, Mapping[str, Any]]

    @property
    def battle(self) -> Mapping[str, Any]:
        """Fields of ``BattleState``."""
        return self.state[BATTLE]

    @property
    def due(self) -> int:
        """When the frame was to be sent: its tick's deadline, on the same clock as ``sent``."""
        battle = self.state[BATTLE]
        began: int = battle["began"]
        rate: int = battle["tick_rate"]
        return began + self.tick * _NS // rate

    @property
    def players(self) -> list[str]:
        """Ids of the room's players."""
        return [entity.removeprefix(PLAYER) for entity in self.state if entity.startswith(PLAYER)]

    def acked(self, player: str) -> int:
        """The highest ``cmd_seq`` taken from the player; 0 for none."""
        fields = self.state.get(PLAYER + player)
        return int(fields["ack"]) if fields else 0
