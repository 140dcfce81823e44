"""From what was asked for to plans, one for each slice of a run."""

from __future__ import annotations

from random import SystemRandom
from typing import TYPE_CHECKING, Final

from loadtest.chaos import schedule
from loadtest.chaos.abilities import lacking
from loadtest.chaos.catalogue import KINDS, kinds_for
from loadtest.chaos.modes import MODES, Slice
from loadtest.chaos.mutations import Mutation
from loadtest.chaos.plan import Limits, Plan

if TYPE_CHECKING:
    import argparse

_SEEDS: Final = 1_000_000


def plans(given: argparse.Namespace) -> list[Plan]:
    """A plan for each slice, decided by the seed.

    Raises:
        ValueError: no such scenario, or one that there is no place or no time for; names it.
    """
    mode = MODES[given.mode].on(given.backend, given.send)
    sized = mode.sized(given.seconds, given.faults, given.rate)
    seed = SystemRandom().randrange(_SEEDS) if given.seed is None else given.seed
    shortened = f"{sized.seconds:g} s of {mode.seconds:g}" if sized.seconds < mode.seconds else ""
    fit = {each.name: _scenarios(each, given) for each in sized.slices}
    for name in given.scenario or ():
        if not any(name in scenarios for scenarios in fit.values()):  # refused, and so is said why
            schedule.variants(name, sized.slices[0].seconds, sized.slices[0].backend, given.db)
            raise ValueError(f"{name}: {lacking(KINDS[name.partition(':')[0]], sized.slices[0])}")
    return [
        _plan(each, fit[each.name], given, seed=seed + number, shortened=shortened)
        for number, each in enumerate(sized.slices)
    ]


def _scenarios(part: Slice, given: argparse.Namespace) -> list[str]:
    """Of what was asked for, what can happen there."""
    there = [name for name in kinds_for(part.backend, given.db) if not lacking(KINDS[name], part)]
    return [name for name in given.scenario or there if name.partition(":")[0] in there]


def left_out(plan: Plan) -> list[str]:
    """What could happen to such a backend and is not planned for, each with the reason."""
    part = Slice(name=plan.part, backend=plan.backend, send=plan.send, seconds=0.0, faults=0, rate=0.0, least=0)
    named = kinds_for(plan.backend, plan.db)
    return [f"{name} {why}" for name in named if (why := lacking(KINDS[name], part))]


def _plan(part: Slice, scenarios: list[str], given: argparse.Namespace, *, seed: int, shortened: str) -> Plan:
    return Plan(
        seed=seed,
        mode=given.mode,
        part=part.name,
        shortened=shortened,
        seconds=part.seconds,
        rate=part.rate,
        keep=part.keep,
        send=part.send,  # type: ignore[arg-type]  # likewise
        faults=schedule.scheduled(
            scenarios,
            count=part.faults if scenarios else 0,
            seconds=part.seconds,
            workers=given.workers,
            seed=seed,
            backend=part.backend,
            database=given.db,
        ),
        scenarios=tuple(scenarios),
        everything=not given.scenario,
        limits=Limits().times(given.slack),
        workers=given.workers,
        backend=part.backend,  # type: ignore[arg-type]  # one of BACKENDS: the arguments' choices and our own table
        db=given.db,
        durability=given.durability,
        least=part.least,
        mutation=None if given.mutate is None else Mutation(given.mutate),
    )
