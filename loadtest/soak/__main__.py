"""``python -m loadtest.soak``: mixed traffic under random disconnects. Exit code 1: a promise did not hold."""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import random
import sys
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

import uvloop

from broker import StreamBroker
from broker.server import NatsServer
from loadtest import shelf
from loadtest.machine import Machine
from loadtest.soak import report, vitals
from loadtest.soak.faults import Mischief, planned
from loadtest.soak.load import Load, Rates
from loadtest.soak.proxy import Proxy
from loadtest.soak.verdict import Findings, objections

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.contracts.options import LinkChoice
    from loadtest.soak.vitals import Sample

_WARM_UP: Final = 60.0
_WINDOW: Final = 30.0
_SETTLE: Final = 60.0
"""Seconds that what was cut off may take to be handed out again and handled."""
_PARTING: Final = 2.0
_TOLD_EVERY: Final = 10
_WORDS: Final = 60
"""Characters of an unexpected error that make it one of a kind: addresses behind them differ every time."""


@dataclass(slots=True)
class _Outcome:
    """What the run collects besides its load."""

    samples: list[Sample] = field(default_factory=list)
    version: str = ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it, print the page, write both files."""
    given = _parser().parse_args(arguments)
    machine = Machine.here()
    # Lost connections are what this makes; a line for each says nothing new.
    logging.getLogger("broker").setLevel(logging.ERROR)
    outcome = _Outcome()
    found = uvloop.run(_soak(given, outcome))
    machine = replace(machine, nats_server=outcome.version)
    told = objections(found, most_growth=given.most_growth)
    command = (
        f"python -m loadtest.soak --link {given.link} --duration {given.duration:g} --rate {given.rate:g} "
        f"--every {given.every:g} --seed {given.seed}"
    )
    title = f"make soak, {given.link}, {datetime.now(UTC):%Y-%m-%d}"
    page = report.markdown(machine, found, outcome.samples, told, title=title, command=command)
    print(f"\n{page}")
    name = given.out / f"soak-{datetime.now(UTC):%Y-%m-%d}-{given.link}"
    name.with_suffix(".md").write_text(page, encoding="utf-8")
    kept = report.as_json(machine, found, outcome.samples, told, command=command)
    name.with_suffix(".json").write_text(json.dumps(kept) + "\n", encoding="utf-8")
    print(f"written: {name}.md and .json")
    return 1 if told else 0


async def _soak(given: argparse.Namespace, outcome: _Outcome) -> Findings:
    plan = planned(given.duration, given.every, random.Random(given.seed))
    async with NatsServer(sync_interval=None) as server:
        outcome.version = server.version
        with Proxy(server.port) as proxy:
            link = cast("LinkChoice", given.link)
            # What a process opens once, whatever becomes of its first connection, is no leak of later ones.
            await (await StreamBroker.connect(proxy.url, link=link)).aclose()
            tasks, fds = len(asyncio.all_tasks()), vitals.fds()
            mischief = Mischief(plan, server, proxy)
            async with Load(proxy.url, Rates.of(given.rate), given.duration, link) as load:
                asyncio.get_running_loop().set_exception_handler(partial(_unhandled, load))
                await _under_fire(load, mischief, outcome)
                await load.settled(_SETTLE)
                held = await load.held()
            await _parted(tasks, fds)
            warm_up = min(_WARM_UP, given.duration / 5)
            return Findings(
                seconds=given.duration,
                rate=given.rate,
                growth=vitals.growth(outcome.samples, warm_up=warm_up, window=min(_WINDOW, warm_up)),
                left_tasks=len(asyncio.all_tasks()) - tasks,
                left_fds=vitals.fds() - fds,
                faults=dict(mischief.done),
                held=held,
                **_counted(load),  # type: ignore[arg-type]  # a dict of counters has no types of its own
            )


def _unhandled(load: Load, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What nobody caught: in a callback, or an error that nobody retrieved."""
    load.errors[f"event loop: {context.get('exception') or context['message']!r}"[:_WORDS]] += 1
    loop.default_exception_handler(context)


def _counted(load: Load) -> dict[str, object]:
    frames, settlements = load.frames, load.settlements
    room, worker = load.room.stats, load.worker.stats
    return {
        "sent": load.sent,
        "published": frames.sent,
        "arrived": frames.arrived.seen,
        "repeated": frames.arrived.repeats,
        "dropped_outbound": room.dropped_outbound,
        "dropped_inbound": worker.dropped_inbound,
        "gaps": frames.gaps,
        "unexplained": frames.unexplained,
        "late": frames.late,
        "asked": dict(load.asked),
        "stored": settlements.stored.seen,
        "handled": settlements.handled.seen,
        "missing": settlements.missing,
        "again": settlements.handled.repeats,
        "unknown": settlements.unknown,
        "reconnects": room.reconnects + worker.reconnects,
        "errors": dict(load.errors),
    }


async def _under_fire(load: Load, mischief: Mischief, outcome: _Outcome) -> None:
    """Send, break, and look once a second."""
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(_watch(load, outcome), name="watch")
        breaking = group.create_task(mischief.run(), name="break")
        try:
            await load.run()
            await breaking
        finally:
            watching.cancel()


async def _watch(load: Load, outcome: _Outcome) -> None:
    clock = asyncio.get_running_loop().time
    began = clock()
    while True:
        await asyncio.sleep(began + len(outcome.samples) + 1 - clock())
        looked = vitals.sample(round(clock() - began, 2), load.sent)
        outcome.samples.append(looked)
        if len(outcome.samples) % _TOLD_EVERY == 0:
            print(report.progress(looked, load.room.stats.reconnects + load.worker.stats.reconnects), flush=True)


async def _parted(tasks: int, fds: int) -> None:
    """What ends with a connection may take a moment to be gone."""
    gc.collect()
    with suppress(TimeoutError):
        async with asyncio.timeout(_PARTING):
            while len(asyncio.all_tasks()) > tasks or vitals.fds() > fds:  # noqa: ASYNC110 - nothing tells of a closed descriptor
                await asyncio.sleep(0.02)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtest.soak", description=__doc__)
    parser.add_argument("--duration", type=float, default=600.0, help="seconds of load (default %(default)g)")
    parser.add_argument("--rate", type=float, default=3000.0, help="messages per second (default %(default)g)")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between faults, about (default %(default)g)")
    parser.add_argument("--link", choices=["wire", "nats-py"], default="wire", help="what speaks NATS")
    parser.add_argument("--seed", type=int, default=1, help="of the faults (default %(default)d)")
    parser.add_argument(
        "--most-growth", type=float, default=5.0, help="MiB of memory after the warm-up (default %(default)g)"
    )
    parser.add_argument(
        "--out", type=shelf.folder, default=str(shelf.SHELF), help="directory of both files (default %(default)s)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
