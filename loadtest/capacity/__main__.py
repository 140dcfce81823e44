"""``python -m loadtest.capacity``: how many rooms one room process and one server hold. Exit code 1: nothing was held.

Doubles the number of rooms until a limit is met, then halves in between, and prints the curve.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from broker.server import NatsServer
from loadtest import shelf
from loadtest.capacity import report
from loadtest.capacity.search import Search
from loadtest.capacity.step import Setting, measure
from loadtest.machine import Machine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadtest.capacity.limits import Step


def main(arguments: Sequence[str] | None = None) -> int:
    """Search, print the curve, write the files."""
    given = _parser().parse_args(arguments)
    setting = Setting(seconds=given.step_seconds, generators=given.generators)
    machine = Machine.here()
    steps, version = asyncio.run(_search(given, setting))
    machine = replace(machine, nats_server=version)
    curve = report.markdown(machine, setting, steps)
    print(f"\n{curve}")
    written = json.dumps(report.as_json(machine, setting, steps), indent=1)
    given.json.write_text(written + "\n", encoding="utf-8")
    page = given.json.with_suffix(".md")
    page.write_text(curve + "\n", encoding="utf-8")
    print(f"written: {given.json} and {page}")
    return 0 if any(step.held for step in steps) else 1


async def _search(given: argparse.Namespace, setting: Setting) -> tuple[list[Step], str]:
    """Every step as it was tried, and the server's version.

    A step that is not held is tried once more: a stall of the machine is not the room's limit. Both are reported. The
    search goes on upwards from a void step that kept every limit, though such a step does not count as held.
    """
    steps: list[Step] = []
    search = Search(given.rooms, given.max_rooms)
    async with NatsServer(sync_interval=None) as server:
        while (rooms := search.next()) is not None:
            kept = False
            for _ in range(given.attempts):
                step = await measure(server, rooms, setting)
                steps.append(step)
                print(report.progress(step), flush=True)
                kept = kept or step.kept
                if step.held:
                    break
            search.tell(rooms, held=kept)
        return steps, server.version


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtest.capacity", description=__doc__)
    parser.add_argument("--rooms", type=_count, default=8, help="to begin with (default %(default)s)")
    parser.add_argument("--max-rooms", type=_count, default=512, help="tried at most (default %(default)s)")
    parser.add_argument("--step-seconds", type=_seconds, default=5.0, help="measured per step (default %(default)g)")
    parser.add_argument("--generators", type=_count, default=1, help="processes that share the players (default 1)")
    parser.add_argument("--attempts", type=_count, default=2, help="for a step that is not held (default %(default)s)")
    parser.add_argument(
        "--json",
        type=shelf.file,
        default=str(shelf.SHELF / "capacity.json"),
        help="where everything goes, with a Markdown page beside it (default %(default)s)",
    )
    return parser


def _count(text: str) -> int:
    if (count := int(text)) < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return count


def _seconds(text: str) -> float:
    if (seconds := float(text)) <= 0:
        raise argparse.ArgumentTypeError("above 0")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
