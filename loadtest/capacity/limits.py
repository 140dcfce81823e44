"""What a step measured, and which limit it met. No I/O."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

HOP_LIMIT: Final = 10.0
"""Milliseconds that 99 of 100 hops must stay below."""
LAG_LIMIT: Final = 2.0
"""Milliseconds that 99 of 100 of the generator's own turns must not be late by; else it measures itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Milliseconds, each rounded up to a tenth; a ``max`` of 200.1 means that or more."""

    p50: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One number of rooms, tried once.

    Attributes:
        rooms: with ``players`` each.
        seconds: measured, after the warm-up.
        frame_hop: from a frame's tick being due to each player's callback in the gateway.
        command_hop: from a gateway's message being due to the room's callback.
        lateness: of the rooms' ticks, p99.
        skipped: ticks.
        cpu: share of one core, 1.0 for all of it: ``server``, ``room`` and the ``generator`` that used most; a
            process whose use is not known here is left out.
        lag: of the generators' own turns, p99; of the worst one.
        frames: seen by players; ``lost`` of them on the way, ``superseded`` by a newer one before they were shown.
        commands: taken by rooms, of those ``sent``.
        problem: what went wrong, so that nothing was measured; empty when nothing did.
    """

    rooms: int
    players: int
    seconds: float = 0.0
    frame_hop: Times = Times(p50=0.0, p99=0.0, max=0.0)
    command_hop: Times = Times(p50=0.0, p99=0.0, max=0.0)
    lateness: float = 0.0
    skipped: int = 0
    cpu: dict[str, float]
    lag: float = 0.0
    generator_skipped: int = 0
    frames: int = 0
    lost: int = 0
    superseded: int = 0
    sent: int = 0
    commands: int = 0
    problem: str = ""

    @property
    def void(self) -> str:
        """Why it says nothing about the room and the server; empty when it does."""
        if self.problem:
            return self.problem
        if self.generator_skipped:
            return f"the generator skipped {self.generator_skipped} of its own turns"
        if self.lag > LAG_LIMIT:
            return f"the generator's own turns were {self.lag:.1f} ms late at p99, more than {LAG_LIMIT:g}"
        return ""

    @property
    def broken(self) -> list[str]:
        """The limits that were not kept."""
        found = []
        if self.frame_hop.p99 >= HOP_LIMIT:
            found.append(f"frame hop p99 {self.frame_hop.p99:.1f} ms")
        if self.command_hop.p99 >= HOP_LIMIT:
            found.append(f"command hop p99 {self.command_hop.p99:.1f} ms")
        if self.skipped:
            found.append(f"{self.skipped} ticks skipped")
        if self.lost:
            found.append(f"{self.lost} frames lost")
        return found

    @property
    def held(self) -> bool:
        """Whether the generator was on time and every limit was kept."""
        return not self.void and not self.broken

    @property
    def kept(self) -> bool:
        """Whether every limit was kept, be the generator late: what waits for it is counted against the room."""
        return not self.problem and not self.generator_skipped and not self.broken

    @property
    def verdict(self) -> str:
        """In words."""
        if self.void:
            return f"void: {self.void}" + ("; every limit was kept" if self.kept else "")
        return "held" if self.held else ", ".join(self.broken)

    def as_json(self) -> dict[str, Any]:
        """Everything."""
        return {**asdict(self), "held": self.held, "verdict": self.verdict}
