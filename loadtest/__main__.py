"""``python -m loadtest``: the benchmark command.

Exit code 1 means that a run of nats-py, this library or the raw socket was void, never that a bar was missed.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from loadtest import evidence, report, shelf
from loadtest.bench import Bench
from loadtest.compare import compare
from loadtest.lineup import LINEUP, turnout
from loadtest.machine import Machine
from loadtest.report import Outcome
from loadtest.workloads import WORKLOADS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from loadtest.runs import Run

_QUICK_ROUNDS: Final = 1
_QUICK_SCALE: Final = 0.02


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for, print the tables, keep the figures."""
    given = _parser().parse_args(arguments)
    if given.docs and (given.only or given.peers or given.quick):
        _parser().error("--docs takes a whole run: neither --only, --peers nor --quick")
    if given.quick:
        given.rounds, given.count_scale = _QUICK_ROUNDS, _QUICK_SCALE
    outcome = _measured(given)
    print(f"\n{report.markdown(outcome)}\n")
    written = evidence.write_beside(outcome, given.json)
    written += evidence.publish(outcome, given.docs) if given.docs else []
    print(f"written: {', '.join(map(str, written))}")
    return 0 if outcome.trusted else 1


def _measured(given: argparse.Namespace) -> Outcome:
    chosen = [each for each in WORKLOADS if not given.only or each.name in given.only]
    here = turnout(given.peers or ())
    for each in here:
        print(each.told)
    machine = Machine.here()
    present = {each.peer.name: each.peer.home.python for each in here if not each.missing}
    bench = Bench(chosen, present, rounds=given.rounds, scale=given.count_scale, told=_teller())
    runs = asyncio.run(bench.run())
    return Outcome(
        machine=replace(machine, nats_server=bench.server_version),
        turnout=here,
        rows=[row for workload in chosen for row in compare(workload, runs)],
        runs=runs,
        rounds=given.rounds,
        scale=given.count_scale,
    )


def _teller() -> Callable[[Run, int, int], None]:
    began = time.monotonic()

    def tell(run: Run, place: int, runs: int) -> None:
        print(report.progress(run, place, runs, time.monotonic() - began), flush=True)

    return tell


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtest", description=__doc__)
    parser.add_argument(
        "--only",
        nargs="+",
        action="extend",
        metavar="WORKLOAD",
        choices=[workload.name for workload in WORKLOADS],
        help=f"only these: {', '.join(workload.name for workload in WORKLOADS)}",
    )
    parser.add_argument(
        "--peers",
        nargs="+",
        action="extend",
        metavar="PEER",
        choices=[peer.name for peer in LINEUP],
        help=f"only these beside nats-py: {', '.join(peer.name for peer in LINEUP)}",
    )
    parser.add_argument("--rounds", type=_rounds, default=5, help="counted rounds (default 5)")
    parser.add_argument("--count-scale", type=_scale, default=1.0, help="multiplies the messages of every run")
    parser.add_argument("--quick", action="store_true", help="one round, few messages: does it run, not how fast")
    parser.add_argument(
        "--json",
        type=shelf.file,
        default=str(shelf.SHELF / "bench.json"),
        help="where the figures of every run go, tables (.md) and plot (.svg) beside it (default %(default)s)",
    )
    parser.add_argument("--docs", type=Path, help="this folder's performance.md and evidence/ are written anew")
    return parser


def _rounds(text: str) -> int:
    if (rounds := int(text)) < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return rounds


def _scale(text: str) -> float:
    if (scale := float(text)) <= 0:
        raise argparse.ArgumentTypeError("above 0")
    return scale


if __name__ == "__main__":
    sys.exit(main())
