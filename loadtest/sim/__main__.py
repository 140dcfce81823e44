"""``python -m loadtest.sim``: seeds in which nothing may be lost, applied twice or left. Exit code 1: a promise broke.

python -m loadtest.sim --seeds 10000
python -m loadtest.sim --seed 4711 --trace
python -m loadtest.sim --seeds 1000 --plant ack-before-commit     # exit code 1: not found
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import TYPE_CHECKING, Final

from loadtest.sim.many import run_many
from loadtest.sim.run import run
from loadtest.sim.shape import PLANTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadtest.sim.many import Tally

_TOLD_EVERY: Final = 500
_SHOWN: Final = 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; the exit code."""
    given = _parser().parse_args(arguments)
    return _one(given) if given.seed is not None else _many(given)


def _one(given: argparse.Namespace) -> int:
    outcome = run(given.seed, given.plant)
    if given.trace:
        print("\n".join(outcome.trace))
    print(f"seed {given.seed}: {outcome.seconds:.1f} s simulated, {outcome.applied} applied, trace {outcome.digest}")
    for each in outcome.violations:
        print(f"VIOLATION: {each}")
    return 1 if outcome.violations else 0


def _many(given: argparse.Namespace) -> int:
    began = time.perf_counter()
    tally = run_many(
        range(given.first, given.first + given.seeds),
        given.plant,
        processes=given.processes,
        until_found=given.plant is not None,
        tell=_progress,
    )
    took = time.perf_counter() - began
    for short in tally.failed[:_SHOWN]:
        print(f"{short.reproduction}    # {short.violations[0]}")
    print(
        f"{tally.seeds} seeds in {took:.1f} s ({tally.seeds / took:.0f}/s on {given.processes} processes), "
        f"{tally.seconds / 3600:.1f} h simulated: {tally.applied} settlements applied, "
        f"{tally.absorbed} repeats absorbed, {len(tally.failed)} seeds with violations; traces {tally.digest}"
    )
    found = bool(tally.failed)
    if given.plant is not None:
        print(f"{given.plant}: " + (f"found by seed {tally.failed[0].seed}" if found else "NOT FOUND"))
        return 0 if found else 1
    return 1 if found else 0


def _progress(tally: Tally) -> None:
    if tally.seeds % _TOLD_EVERY == 0:
        print(f"  {tally.seeds} seeds, {len(tally.failed)} with violations", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtest.sim", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seeds", type=int, default=10_000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="at once")
    parser.add_argument("--seed", type=int, help="this one alone")
    parser.add_argument("--trace", action="store_true", help="with --seed: everything that happened")
    parser.add_argument("--plant", choices=PLANTS, help="plant a bug, and run until it is found")
    return parser


if __name__ == "__main__":
    sys.exit(main())
