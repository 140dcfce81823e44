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


def scheduled(kinds: Sequence[str], *, count: int, seconds: float, workers: int, seed: int) -> tuple[Fault, ...]:
    """``count`` faults within ``seconds``, in order: each variant of each kind once if there is room, then by weight.

    Equal for equal arguments, in every process and on every machine.

    Raises:
        ValueError: a kind that a run this short has no room for.
    """
    for name in kinds:
        if KINDS[name].earliest + _TAIL > seconds:
            raise ValueError(f"{name} needs a run of {KINDS[name].earliest + _TAIL:g} s at least, not {seconds:g}")
    chance = random.Random(seed)
    tracks: dict[tuple[str, int], list[tuple[Kind, str]]] = {}
    turn = chance.randrange(workers)
    for kind, detail in _wanted([KINDS[name] for name in dict.fromkeys(kinds)], count, chance):
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


def _wanted(kinds: Sequence[Kind], count: int, chance: random.Random) -> list[tuple[Kind, str]]:
    variants = [(kind, detail) for kind in kinds for detail in kind.details]
    chance.shuffle(variants)
    while len(variants) < count:
        [kind] = chance.choices(kinds, [kind.weight * len(kind.details) for kind in kinds])
        variants.append((kind, chance.choice(kind.details)))
    return variants[:count]


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
