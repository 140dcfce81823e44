"""Many seeds over all processors, and one digest of everything that happened in them."""

from __future__ import annotations

import hashlib
import multiprocessing
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from loadtest.sim.run import run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from loadtest.sim.shape import Plant

_CHUNK: Final = 25


class Short(NamedTuple):
    """What is kept of a seed when there are many."""

    seed: int
    violations: tuple[str, ...]
    digest: str
    reproduction: str
    seconds: float
    applied: int
    absorbed: int


@dataclass(slots=True)
class Tally:
    """What came of all of them.

    Attributes:
        failed: those with violations, by seed.
        seconds: simulated.
        digest: of every trace, in the order of the seeds.
    """

    seeds: int = 0
    failed: list[Short] = field(default_factory=list)
    seconds: float = 0.0
    applied: int = 0
    absorbed: int = 0
    digest: str = ""


def run_many(
    seeds: Sequence[int],
    plant: Plant | None = None,
    *,
    processes: int,
    until_found: bool = False,
    tell: Callable[[Tally], None] = lambda _: None,
) -> Tally:
    """Run them all, or until one has failed; ``tell`` hears of each."""
    tally, whole = Tally(), hashlib.blake2b(digest_size=16)
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for short in pool.imap(partial(_short, plant=plant), seeds, chunksize=_CHUNK):
            tally.seeds += 1
            tally.seconds += short.seconds
            tally.applied += short.applied
            tally.absorbed += short.absorbed
            whole.update(short.digest.encode())
            if short.violations:
                tally.failed.append(short)
            tell(tally)
            if short.violations and until_found:
                break
    tally.digest = whole.hexdigest()
    return tally


def _short(seed: int, plant: Plant | None) -> Short:
    outcome = run(seed, plant)
    return Short(
        seed,
        outcome.violations,
        outcome.digest,
        outcome.reproduction,
        outcome.seconds,
        outcome.applied,
        outcome.absorbed,
    )
