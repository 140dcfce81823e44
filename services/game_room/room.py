"""A room: one battle after another for the same players. The rules only: no ``await``, no clock, no broker.

running --last tick, or asked to finish--> finishing --its result is stored--> running the next battle, or closed

A battle's result is made once and kept until it is stored; the next battle has a new id.
"""

from __future__ import annotations

import random
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from services.events import BATTLE, BattleEnded
from services.game_room.battle import Battle
from services.game_room.commands import Intake, Ruling

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.events import Command

RULES_VERSION: Final = 1
_SPREAD: Final = 0.25
"""Battles differ in length by up to this share, so that rooms started together do not end together."""


class Phase(StrEnum):
    """Where a room is in its life."""

    RUNNING = "running"
    FINISHING = "finishing"
    CLOSED = "closed"


class Room:
    """One room. ``tick`` it; when that returns a result, have it stored and say ``stored``."""

    def __init__(
        self, room: str, players: Sequence[str], *, seed: int, epoch: int, tick_rate: int, battle_ticks: int
    ) -> None:
        self.room = room
        self.epoch = epoch
        self.phase = Phase.RUNNING
        self.tick_number = -1
        self.intake = Intake(players, tick_rate=tick_rate)
        self._players = tuple(players)
        self._tick_rate = tick_rate
        self._random = random.Random(f"{seed}/{room}")
        self._battle_ticks = battle_ticks
        self._battles = 0
        self._last = False
        self._begin()

    @property
    def battle_id(self) -> str:
        """Unique for ever: room, epoch and the battle's number in it."""
        return f"{self.room}-{self.epoch}-{self._battles}"

    def offer(self, player: str, command: Command) -> Ruling:
        """Take a command that came on ``player``'s subject, or not; see ``Intake.offer``."""
        return self.intake.offer(player, command, tick=self.tick_number)

    def tick(self, number: int, *, now_ns: int) -> BattleEnded | None:
        """Play tick ``number``; the result when it was the battle's last one.

        While finishing nothing moves: commands taken then were for a battle that is over.
        """
        self.tick_number = number
        commands = self.intake.take()
        if self.phase is not Phase.RUNNING:
            return None
        self._battle.step(commands)
        if not self._battle.over and not self._last:
            return None
        self.phase = Phase.FINISHING
        return BattleEnded(
            battle_id=self.battle_id,
            room=self.room,
            epoch=self.epoch,
            rules_version=RULES_VERSION,
            seed=self._battle.seed,
            ticks=self._battle.ticks,
            ended_at=now_ns,
            results=self._battle.results(),
        )

    def stored(self) -> None:
        """The result is stored: begin the next battle, or close after the last one."""
        if self._last:
            self.phase = Phase.CLOSED
        else:
            self.phase = Phase.RUNNING
            self._begin()

    def finish(self) -> None:
        """End the running battle with the next tick and start no other."""
        self._last = True

    def state(self, *, began: int) -> dict[str, dict[str, Any]]:
        """What everyone sees, entity -> fields (see ``View``); ``began`` is when tick 0 was due, in nanoseconds."""
        state = self._battle.state(self.intake.acks)
        state[BATTLE] = {
            "id": self.battle_id,
            "phase": "running" if self.phase is Phase.RUNNING else "finishing",
            "began": began,
            "tick_rate": self._tick_rate,
        }
        return state

    def _begin(self) -> None:
        self._battles += 1
        spread = self._random.uniform(1 - _SPREAD, 1 + _SPREAD)
        ticks = max(1, round(self._battle_ticks * spread))
        self._battle = Battle(self._players, seed=self._random.getrandbits(32), ticks=ticks)
