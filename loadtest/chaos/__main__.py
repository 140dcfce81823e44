"""``python -m loadtest.chaos``, ``gamebroker chaos``: settlements under planned faults; does each take effect once?

Exit code 0: every promise held; 1: one did not; 2: the run is void, for a planned fault did not fire.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from random import SystemRandom
from typing import TYPE_CHECKING, Final

import uvloop

from broker import BrokerError
from loadtest import shelf
from loadtest.chaos import schedule
from loadtest.chaos.catalogue import BACKENDS, DATABASES, KINDS, kinds_for
from loadtest.chaos.director import Director
from loadtest.chaos.modes import MODES
from loadtest.chaos.mutations import Mutation
from loadtest.chaos.page import page
from loadtest.chaos.plan import Limits, Plan
from loadtest.chaos.report import Report, judged_in
from loadtest.machine import Machine
from services.children import ChildFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

_SEEDS: Final = 1_000_000
_TOP: Final = Path(__file__).resolve().parents[2]
NOT_RUN: Final = 3
"""Exit code of a run that could not be brought to its end."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Plan, print the plan, run, check; the exit code."""
    parser = _parser()
    given = parser.parse_args(arguments)
    # Lost connections are what this makes; a line for each says nothing new.
    logging.getLogger("broker").setLevel(logging.ERROR)
    try:
        plan = _plan(given)
    except ValueError as exc:
        parser.error(str(exc))
    _say(f"seed {plan.seed}: {len(plan.faults)} faults in {plan.seconds:g} s at {plan.rate:g} settlements/s")
    _say(schedule.table(plan.faults))
    directory = (given.directory or Path(tempfile.mkdtemp(prefix="chaos-"))).resolve()
    machine, began = Machine.here(), datetime.now(UTC)
    director = Director(plan, directory, _say)
    try:
        uvloop.run(director.run())
    except (BrokerError, ChildFailed, OSError) as exc:
        print(f"the run could not be brought to its end: {exc}; what there is lies in {directory}", file=sys.stderr)
        return NOT_RUN
    return _judged(directory, given, replace(machine, nats_server=director.version), began)


def _plan(given: argparse.Namespace) -> Plan:
    mode = MODES[given.mode]
    seed = SystemRandom().randrange(_SEEDS) if given.seed is None else given.seed
    seconds = mode.seconds if given.seconds is None else given.seconds
    scenarios = given.scenario or kinds_for(given.backend, given.db)
    faults = schedule.scheduled(
        scenarios,
        count=mode.faults if given.faults is None else given.faults,
        seconds=seconds,
        workers=given.workers,
        seed=seed,
        backend=given.backend,
        database=given.db,
    )
    return Plan(
        seed=seed,
        mode=given.mode,
        seconds=seconds,
        rate=mode.rate if given.rate is None else given.rate,
        faults=faults,
        scenarios=tuple(scenarios),
        limits=Limits().times(given.slack),
        workers=given.workers,
        backend=given.backend,
        db=given.db,
        durability=given.durability,
        least=mode.least if given.seconds is None and given.rate is None else 0,
        mutation=None if given.mutate is None else Mutation(given.mutate),
    )


def _judged(directory: Path, given: argparse.Namespace, machine: Machine, began: datetime) -> int:
    """Has the checker, a process of its own, judge; keeps what lies in the directory unless all is well."""
    checking = subprocess.run([sys.executable, "-m", "loadtest.chaos.checker", str(directory)], cwd=_TOP, check=False)
    if (judged := judged_in(directory)) is None:
        print(f"the checker could not judge what lies in {directory}", file=sys.stderr)
        return NOT_RUN
    report = Report.of(Plan.load(directory), judged, machine, began=f"{began:%Y-%m-%d %H:%M} UTC")
    for finding in report.verdict.findings:
        held = {True: "held", False: "BROKEN", None: "not judged"}[finding.held]
        _say(f"  {finding.number:4} {held:10} {finding.promise}: {finding.told}")
    if given.report is not None:
        report.save(given.report)
        given.report.with_suffix(".html").write_text(page(report), encoding="utf-8")
        _say(f"written: {given.report} and .html")
    if checking.returncode == 0 and given.directory is None:
        shutil.rmtree(directory)
    else:
        _say(f"histories and books: {directory}")
    return checking.returncode


def _say(line: str) -> None:
    print(line, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gamebroker chaos", description=__doc__)
    parser.add_argument("--mode", choices=list(MODES), default="quick", help="60 s or 15 min (default %(default)s)")
    parser.add_argument("--seed", type=int, help="of the schedule; the same seed, the same faults (default: a new one)")
    parser.add_argument(
        "--backend", choices=BACKENDS, default="nats", help="one real nats-server, or a cluster of three"
    )
    parser.add_argument("--db", choices=DATABASES, default="sqlite", help="that holds the ledger (default %(default)s)")
    parser.add_argument("--scenario", nargs="+", metavar="NAME", help=f"of: {', '.join(KINDS)}; or NAME:VARIANT")
    parser.add_argument("--mutate", choices=[each.value for each in Mutation], help="break the books: must be noticed")
    parser.add_argument(
        "--report", type=shelf.file, metavar="FILE", help="write it there as JSON, and as HTML beside it"
    )
    parser.add_argument("--directory", type=shelf.folder, help="work there, and keep everything (default: temporary)")
    parser.add_argument(
        "--durability", choices=["os", "fsync"], default="os", help="what a confirmed message is (default %(default)s)"
    )
    parser.add_argument("--seconds", type=float, help="instead of the mode's")
    parser.add_argument("--faults", type=int, help="instead of the mode's")
    parser.add_argument("--rate", type=float, help="settlements per second instead of the mode's")
    parser.add_argument("--workers", type=int, default=2, help="processes that settle (default %(default)d)")
    parser.add_argument("--slack", type=float, default=1.0, help="time limits, times this: for busy machines")
    return parser


if __name__ == "__main__":
    sys.exit(main())
