"""``python -m loadtest``: the benchmark command. Exit code 1 means that a run was void, never that a bar was missed."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from loadtest import report
from loadtest.bench import Bench
from loadtest.compare import compare
from loadtest.machine import Machine
from loadtest.workloads import WORKLOADS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadtest.runs import Run


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for, print the table, write the JSON."""
    given = _parser().parse_args(arguments)
    chosen = [each for each in WORKLOADS if not given.workload or each.name in given.workload]
    machine = Machine.here()
    bench = Bench(chosen, rounds=given.rounds, scale=given.count_scale, told=_tell)
    runs = asyncio.run(bench.run())
    machine = replace(machine, nats_server=bench.server_version)
    rows = [row for workload in chosen for row in compare(workload, runs)]
    print()
    print(report.markdown(machine, rows, runs, rounds=given.rounds, scale=given.count_scale))
    told = report.as_json(machine, rows, runs, rounds=given.rounds, scale=given.count_scale)
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    print(f"written: {given.json}")
    return 1 if any(run.void for run in runs) else 0


def _tell(run: Run, rounds: int) -> None:
    print(report.progress(run, rounds), flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtest", description=__doc__)
    parser.add_argument(
        "--workload",
        action="append",
        choices=[workload.name for workload in WORKLOADS],
        help="only this one; may be given several times",
    )
    parser.add_argument(
        "--rounds", type=_rounds, default=5, help="counted rounds (default 5); one warm-up comes before"
    )
    parser.add_argument("--count-scale", type=_scale, default=1.0, help="multiplies the messages of every run")
    parser.add_argument(
        "--json",
        type=Path,
        default=Path(tempfile.gettempdir()) / "gamebroker-bench.json",
        help="where the numbers of every run go (default %(default)s)",
    )
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
