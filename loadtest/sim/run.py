"""One seed from beginning to end, and what came of it."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import logging
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, Final

from loadtest.sim.certainty import certainty
from loadtest.sim.loop import Stuck, VirtualLoop
from loadtest.sim.plants import planted
from loadtest.sim.shape import Shape
from loadtest.sim.verdict import violations
from loadtest.sim.world import World

if TYPE_CHECKING:
    from loadtest.sim.certainty import WallClock
    from loadtest.sim.shape import Plant

_LAST_TURNS: Final = 20
"""Turns of the loop that tasks which were told to end may take to do so."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a seed.

    Attributes:
        violations: promises that did not hold, one sentence each.
        trace: what happened, a line each.
        seconds: how long it was, by its own clock.
        applied: settlements applied.
        absorbed: repeats that the inbox stopped.
    """

    seed: int
    plant: Plant | None
    violations: tuple[str, ...]
    trace: tuple[str, ...]
    seconds: float
    applied: int
    absorbed: int

    @property
    def digest(self) -> str:
        """The whole trace in 32 digits: the same seed has the same one, in any process."""
        return hashlib.blake2b("\n".join(self.trace).encode(), digest_size=16).hexdigest()

    @property
    def reproduction(self) -> str:
        """The command that runs it again."""
        return f"python -m loadtest.sim --seed {self.seed}" + (f" --plant {self.plant}" if self.plant else "")


def run(seed: int, plant: Plant | None = None) -> Outcome:
    """Run one seed. Nothing outside of it has any influence; nothing of it is left."""
    shape = Shape.drawn(seed, plant)
    loop = VirtualLoop(Random(f"turns {seed}") if shape.shuffled else None)
    unheard: list[str] = []
    loop.set_exception_handler(lambda _, context: unheard.append(_told(context)))
    level = logging.getLogger("broker").level
    collecting = gc.isenabled()
    gc.disable()  # an async generator that is collected runs on, and when that happens is nobody's seed
    logging.getLogger("broker").setLevel(logging.CRITICAL + 1)
    found: list[str] = []
    lived: list[World] = []
    try:
        with ExitStack() as stack:
            wall = stack.enter_context(certainty(seed, loop))
            stack.enter_context(planted(plant))
            try:
                found += loop.run_until_complete(_live(seed, shape, loop, wall, plant, lived))
            except Stuck as exc:
                found.append(f"stuck {exc}")
                _sweep(loop)
    finally:
        loop.close()
        logging.getLogger("broker").setLevel(level)
        if collecting:
            gc.enable()
    world = lived[0]
    trace = tuple(f"{when:10.4f} {who:12} {what}" for when, who, what in world.trace)
    told = (*violations(world), *found, *unheard)
    return Outcome(seed, plant, told, trace, loop.time(), len(world.bank.log), world.bank.absorbed)


async def _live(
    seed: int, shape: Shape, loop: VirtualLoop, wall: WallClock, plant: Plant | None, lived: list[World]
) -> list[str]:
    """A world from beginning to end; the tasks that it left behind."""
    world = World(seed, shape, loop, wall, plant)
    lived.append(world)
    await world.run()
    await world.admin.aclose()
    for _ in range(_LAST_TURNS):
        await asyncio.sleep(0)
    left = asyncio.all_tasks() - {asyncio.current_task()}
    told = sorted(f"a task is left: {task.get_name()}" for task in left)
    for task in left:
        task.cancel()
    return told


def _sweep(loop: VirtualLoop) -> None:
    """What waits for ever is cancelled, so that nothing of it is left when the loop closes."""
    loop.turns = 0
    for task in asyncio.all_tasks(loop):
        task.cancel()
    with suppress(Stuck):
        loop.run_until_complete(asyncio.sleep(1))


def _told(context: dict[str, Any]) -> str:
    error = context.get("exception")
    return f"unhandled: {context.get('message')}: {type(error).__name__}: {error}"
