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
from typing import TYPE_CHECKING, Final

import uvloop

from broker import BrokerError
from loadtest import shelf
from loadtest.chaos import schedule
from loadtest.chaos.catalogue import BACKENDS, DATABASES, KINDS
from loadtest.chaos.checker import BROKEN, VOID
from loadtest.chaos.director import Director
from loadtest.chaos.modes import MODES
from loadtest.chaos.mutations import Mutation
from loadtest.chaos.page import page
from loadtest.chaos.planning import left_out, plans
from loadtest.chaos.report import Report, judged_in
from loadtest.chaos.series import Series
from loadtest.machine import Machine
from services.children import ChildFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadtest.chaos.plan import Plan

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
        planned = plans(given)
    except ValueError as exc:
        parser.error(str(exc))
    for plan in planned:
        _say(f"seed {plan.seed}: {len(plan.faults)} faults in {plan.seconds:g} s at {plan.rate:g} settlements/s")
        _say(schedule.table(plan.faults))
        if plan.everything:
            for told in left_out(plan):
                _say(f"left out: {told}")
    directory = (given.directory or Path(tempfile.mkdtemp(prefix="chaos-"))).resolve()
    reports = []
    for plan in planned:
        _say(f"-- {plan.part}: {plan.seconds:g} s, backend {plan.backend}{_shortened(plan)}")
        report = _report(plan, directory if len(planned) == 1 else directory / plan.part)
        if report is None:
            return NOT_RUN
        reports.append(report)
    return _told(reports, directory, given)


def _shortened(plan: Plan) -> str:
    return f", SHORTENED: the mode's {plan.shortened}" if plan.shortened else ""


def _report(plan: Plan, directory: Path) -> Report | None:
    """Run it and have it judged, by a process of its own; ``None`` when that could not be brought to its end."""
    directory.mkdir(parents=True, exist_ok=True)
    machine, began = Machine.here(), datetime.now(UTC)
    director = Director(plan, directory, _say)
    try:
        uvloop.run(director.run())
    except (BrokerError, ChildFailed, OSError) as exc:
        print(f"the run could not be brought to its end: {exc}; what there is lies in {directory}", file=sys.stderr)
        return None
    subprocess.run([sys.executable, "-m", "loadtest.chaos.checker", str(directory)], cwd=_TOP, check=False)
    if (judged := judged_in(directory)) is None:
        print(f"the checker could not judge what lies in {directory}", file=sys.stderr)
        return None
    report = Report.of(
        plan, judged, replace(machine, nats_server=director.version), began=f"{began:%Y-%m-%d %H:%M} UTC"
    )
    for finding in report.verdict.findings:
        held = {True: "held", False: "BROKEN", None: "not judged"}[finding.held]
        _say(f"  {finding.number:4} {held:10} {finding.promise}: {finding.told}")
    return report


def _told(reports: Sequence[Report], directory: Path, given: argparse.Namespace) -> int:
    """Writes what is to be written; keeps what lies in the directory unless all is well. The exit code."""
    whole = reports[0] if len(reports) == 1 else Series.of(reports)
    _say(whole.sentence)
    if given.report is not None:
        whole.save(given.report)
        given.report.with_suffix(".html").write_text(page(whole), encoding="utf-8")
        _say(f"written: {given.report} and .html")
    if whole.passed and given.directory is None:
        shutil.rmtree(directory)
    else:
        _say(f"histories and books: {directory}")
    if any(each.verdict.broken for each in reports):
        return BROKEN
    return 0 if whole.passed else VOID


def _say(line: str) -> None:
    print(line, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gamebroker chaos", description=__doc__)
    parser.add_argument(
        "--mode",
        choices=list(MODES),
        default="quick",
        help="60 s on one server, or 15 min with a slice on a cluster (default %(default)s)",
    )
    parser.add_argument("--seed", type=int, help="of the schedule; the same seed, the same faults (default: a new one)")
    parser.add_argument(
        "--backend", choices=BACKENDS, help="all of it on one real nats-server, or on a cluster of three"
    )
    parser.add_argument("--db", choices=DATABASES, default="sqlite", help="that holds the ledger (default %(default)s)")
    parser.add_argument(
        "--send", choices=["direct", "outbox"], help="how producers do: straight to the server, or through an outbox"
    )
    parser.add_argument("--scenario", nargs="+", metavar="NAME", help=f"of: {', '.join(KINDS)}; or NAME:VARIANT")
    parser.add_argument("--mutate", choices=[each.value for each in Mutation], help="break the books: must be noticed")
    parser.add_argument(
        "--report", type=shelf.file, metavar="FILE", help="write it there as JSON, and as HTML beside it"
    )
    parser.add_argument("--directory", type=shelf.folder, help="work there, and keep everything (default: temporary)")
    parser.add_argument(
        "--durability", choices=["os", "fsync"], default="os", help="what a confirmed message is (default %(default)s)"
    )
    parser.add_argument("--seconds", type=float, help="in all, instead of the mode's; a run with less says so")
    parser.add_argument("--faults", type=int, help="instead of the mode's")
    parser.add_argument("--rate", type=float, help="settlements per second instead of the mode's")
    parser.add_argument("--workers", type=int, default=2, help="processes that settle (default %(default)d)")
    parser.add_argument("--slack", type=float, default=1.0, help="time limits, times this: for busy machines")
    return parser


if __name__ == "__main__":
    sys.exit(main())
