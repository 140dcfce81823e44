"""When what goes wrong: decided by a seed before anything begins. No I/O."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

from loadtest.chaos.catalogue import KINDS
from loadtest.chaos.plan import Fault

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadtest.chaos.catalogue import Kind

_LEAD: Final = 1.0
"""Seconds of undisturbed work before the first fault."""
_TAIL: Final = 0.5
_JITTER: Final = 0.35
"""Share of the room between two faults of a track by which each may move."""


def scheduled(
    scenarios: Sequence[str],
    *,
    count: int,
    seconds: float,
    workers: int,
    seed: int,
    backend: str = "nats",
    database: str = "sqlite",
) -> tuple[Fault, ...]:
    """``count`` faults within ``seconds``, in order: each variant of each scenario once if they fit, then by weight.

    A scenario is a kind, or one variant of it: ``worker-kill``, ``worker-kill:mid_batch``. Equal for equal arguments,
    in every process and on every machine.

    Raises:
        ValueError: no such scenario, none for this backend or database, or one that a run this short has no room for.
    """
    named = [variant for name in dict.fromkeys(scenarios) for variant in variants(name, seconds, backend, database)]
    chance = random.Random(seed)
    tracks: dict[tuple[str, int], list[tuple[Kind, str]]] = {}
    turn = chance.randrange(workers)
    for kind, detail in _wanted(named, count, chance):
        target = 0
        if kind.track == "worker":
            turn += 1
            target = 1 + turn % workers
        tracks.setdefault((kind.track, target), []).append((kind, detail))
    found = [
        Fault(0, at, kind.name, target, round(chance.uniform(*kind.seconds), 2), detail)
        for (_, target), wanted in sorted(tracks.items(), key=lambda each: each[0])
        for at, (kind, detail) in _placed(wanted, seconds, chance)
    ]
    found.sort(key=lambda fault: (fault.at, fault.kind, fault.target))
    return tuple(
        Fault(number, fault.at, fault.kind, fault.target, fault.seconds, fault.detail)
        for number, fault in enumerate(found, 1)
    )


def variants(scenario: str, seconds: float, backend: str, database: str) -> list[tuple[Kind, str]]:
    """What a scenario stands for: a kind with each of its details, or one of them.

    Raises:
        ValueError: see ``scheduled``.
    """
    name, _, detail = scenario.partition(":")
    kind = KINDS.get(name)
    if kind is None or (detail and detail not in kind.details):
        raise ValueError(f"no scenario {scenario!r}; there are {', '.join(KINDS)}")
    if backend not in kind.backends:
        raise ValueError(f"{name} is nothing that happens to the backend {backend}")
    if database not in kind.databases:
        raise ValueError(f"{name} is nothing that happens to the database {database}")
    if kind.earliest + _TAIL > seconds:
        raise ValueError(f"{name} needs a run of {kind.earliest + _TAIL:g} s at least, not {seconds:g}")
    return [(kind, each) for each in kind.details if not detail or each == detail]


def _wanted(named: Sequence[tuple[Kind, str]], count: int, chance: random.Random) -> list[tuple[Kind, str]]:
    wanted = chance.sample(named, len(named))
    if count > len(wanted):
        wanted += chance.choices(named, [kind.weight for kind, _ in named], k=count - len(wanted))
    return wanted[:count]


def _placed(
    wanted: Sequence[tuple[Kind, str]], seconds: float, chance: random.Random
) -> list[tuple[float, tuple[Kind, str]]]:
    """Spread over the run, none before its kind can work."""
    step = max(0.0, seconds - _LEAD - _TAIL) / len(wanted)
    slots = [min(_LEAD, seconds / 4) + step * (n + chance.uniform(0.0, _JITTER)) for n in range(len(wanted))]
    placed = []
    for each in sorted(wanted, key=lambda variant: -variant[0].earliest):
        late_enough = [at for at in slots if at >= each[0].earliest]
        at = chance.choice(late_enough) if late_enough else slots[-1]
        slots.remove(at)
        placed.append((round(max(at, each[0].earliest), 2), each))
    return sorted(placed, key=lambda slot: slot[0])


def table(faults: Sequence[Fault]) -> str:
    """The schedule as it is printed."""
    return "\n".join(
        f"{fault.number:4}  {fault.at:7.2f} s  {fault.kind:16}"
        f"{f' worker {fault.target}' if fault.target else ''}"
        f"{f' at {fault.detail}' if fault.detail else ''}"
        f"{f' for {fault.seconds:g} s' if fault.seconds else ''}"
        for fault in faults
    )
