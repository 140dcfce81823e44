"""One battle: the rules only. No ``await``, no clock, no broker and no randomness but the seed's in this file.

The same players, seed, length and commands give the same battle, tick by tick.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from services.events import PLAYER, PlayerResult

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from services.events import Command

ARENA: Final = 1000
SPEED: Final = 8
REACH: Final = 600
HEALTH: Final = 100
DAMAGE: Final = 20
HIT_POINTS: Final = 10
KILL_POINTS: Final = 50
HIT_CHANCE: Final = 0.6


@dataclass(slots=True)
class _Fighter:
    player: str
    entity: str
    x: int
    y: int
    dx: int = 0
    dy: int = 0
    hp: int = HEALTH
    score: int = 0
    damage_taken: int = 0


class Battle:
    """Players move and fire in a square arena for a fixed number of ticks."""

    def __init__(self, players: Sequence[str], *, seed: int, ticks: int) -> None:
        self.seed = seed
        self.ticks = 0
        self._length = ticks
        self._random = random.Random(seed)
        self._fighters = {player: self._spawn(player) for player in players}

    @property
    def over(self) -> bool:
        """Whether the last tick was played."""
        return self.ticks >= self._length

    def step(self, commands: Iterable[tuple[str, Command]]) -> None:
        """Play one tick: commands in the order given, then everyone moves."""
        for player, command in commands:
            fighter = self._fighters[player]
            if command.kind == "move":
                fighter.dx, fighter.dy = command.dx, command.dy
            else:
                self._fire(fighter, self._fighters.get(command.target))
        for fighter in self._fighters.values():
            if fighter.dx:
                fighter.x = _inside(fighter.x + fighter.dx * SPEED)
            if fighter.dy:
                fighter.y = _inside(fighter.y + fighter.dy * SPEED)
        self.ticks += 1

    def state(self, acks: Mapping[str, int]) -> dict[str, dict[str, Any]]:
        """What everyone sees of each player, with the last command taken from them; fields of ``PlayerState``."""
        return {
            each.entity: {
                "x": each.x,
                "y": each.y,
                "hp": each.hp,
                "score": each.score,
                "ack": acks.get(each.player, 0),
            }
            for each in self._fighters.values()
        }

    def results(self) -> tuple[PlayerResult, ...]:
        """Places from first to last: more points, then less damage taken, then the id, so that no two are equal."""
        ranked = sorted(self._fighters.values(), key=lambda each: (-each.score, each.damage_taken, each.player))
        return tuple(
            PlayerResult(player=each.player, place=place, score=each.score)
            for place, each in enumerate(ranked, start=1)
        )

    def _spawn(self, player: str) -> _Fighter:
        return _Fighter(player, PLAYER + player, self._random.randint(0, ARENA), self._random.randint(0, ARENA))

    def _fire(self, shooter: _Fighter, target: _Fighter | None) -> None:
        if target is None or target is shooter:
            return
        # Drawn for every shot, in reach or not: where players stand must not shift the draws that follow.
        lucky = self._random.random() < HIT_CHANCE
        if not lucky or (shooter.x - target.x) ** 2 + (shooter.y - target.y) ** 2 > REACH**2:
            return
        target.hp -= DAMAGE
        target.damage_taken += DAMAGE
        shooter.score += HIT_POINTS
        if target.hp <= 0:
            shooter.score += KILL_POINTS
            target.hp = HEALTH
            target.x, target.y = self._random.randint(0, ARENA), self._random.randint(0, ARENA)


def _inside(place: int) -> int:
    return 0 if place < 0 else min(place, ARENA)
