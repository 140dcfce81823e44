"""``python -m loadtest.upkeep``: what is done now and then about inbox and outbox, over a million rows.

A SQLite file with as many marks in the inbox as rows in the outbox, all sent and applied, their keys in no order. Then,
one after the other: ``reconcile`` looks at every row, ``Inbox.prune`` forgets every mark (its stream is gone), and
``Outbox.prune`` every row. Told are rows a second, by how much the process grew, and the longest that its event loop
stood still. Each bar stands for "beside a worker at work": memory that does not depend on the rows, and a loop that
goes on.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import uvloop

from broker import StreamBroker, StreamOptions
from broker.exactly_once import Inbox, Outbox, reconcile
from loadtest.machine import Machine
from loadtest.soak.vitals import rss
from loadtest.verdicts import Verdict, page, publish

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

GROWTH: Final = 16.0
"""MiB that the process may grow by in each of them."""
STILL: Final = 0.25
"""Seconds that its event loop may stand still."""
STREAM: Final = "BATTLES"
CONSUMER: Final = "settlement"
SUBJECT: Final = "battle.settle"
_APART: Final = 7919
_COUNTED: Final = "WITH RECURSIVE counted(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counted WHERE n < {rows})"
_KEY: Final = "'battle-' || ((n * {apart}) % {rows})"
_MARKS: Final = f"""
    {_COUNTED} INSERT INTO gamebroker_inbox (consumer, subject, key, digest, stream, sequence, at)
    SELECT '{CONSUMER}', '{SUBJECT}', {_KEY}, randomblob(32), '{STREAM}', n, n FROM counted
"""  # noqa: S608 - names of this file
_SENT: Final = f"""
    {_COUNTED} INSERT INTO gamebroker_outbox
    (subject, key, body, created_at, due_at, attempts, sent_at, repeats, stream, sequence)
    SELECT '{SUBJECT}', {_KEY}, randomblob(200), 0, 0, 0, 1, 0, '{STREAM}', n FROM counted
"""  # noqa: S608 - names of this file
_TICK: Final = 0.005


class Took(NamedTuple):
    """What one of them came to.

    Attributes:
        what: its name.
        seconds: it took.
        growth: of the process, MiB.
        still: the longest that the event loop stood still, seconds.
    """

    what: str
    seconds: float
    growth: float
    still: float


async def took(what: str, work: Awaitable[Any]) -> Took:
    """Do it, with an eye on the process."""
    still = 0.0

    async def look() -> None:
        nonlocal still
        while True:
            before = perf_counter()
            await asyncio.sleep(_TICK)
            still = max(still, perf_counter() - before - _TICK)

    weight, looking, began = rss(), asyncio.ensure_future(look()), perf_counter()
    try:
        await work
    finally:
        seconds = perf_counter() - began
        looking.cancel()
        with suppress(asyncio.CancelledError):
            await looking
    return Took(what, seconds, (rss() - weight) / (1 << 20), still)


async def filled(inbox: Inbox, rows: int) -> None:
    """The tables, with so many marks and sent rows."""
    await inbox.create()
    for statement in (_MARKS, _SENT):
        async with inbox.engine.begin() as connection:
            await connection.exec_driver_sql(statement.format(rows=rows, apart=_APART))


async def measured(home: Path, rows: int) -> list[Took]:
    """All of them, one after the other.

    Raises:
        RuntimeError: one of them has not looked at every row.
    """
    url = f"sqlite+aiosqlite:///{home / 'upkeep.db'}"
    async with Inbox(url) as inbox, Outbox(url) as outbox, StreamBroker.connect("memory://") as sb:
        await filled(inbox, rows)
        await sb.declare(StreamOptions(STREAM, [SUBJECT], duplicate_window=0.1))
        await asyncio.sleep(0.2)
        done: list[int] = []

        async def look() -> None:
            found = await reconcile(outbox, inbox, sb, stream=STREAM, consumer=CONSUMER, older_than=1)
            done.append(found.settled)

        async def forget() -> None:
            await sb.streams.delete(STREAM)
            done.append(await inbox.prune(sb, stream=STREAM, consumer=CONSUMER, outbox=outbox))

        async def clear() -> None:
            done.append(await outbox.prune(keep=1, settled_only=True))

        found = [
            await took("`reconcile`", look()),
            await took("`Inbox.prune`", forget()),
            await took("`Outbox.prune`", clear()),
        ]
    if done != [rows] * len(done):
        raise RuntimeError(f"of {rows:,} rows they have done {done}")
    return found


def verdicts(found: Sequence[Took]) -> list[Verdict]:
    """Every figure that has a bar."""
    growth, still = max(each.growth for each in found), max(each.still for each in found)
    return [
        Verdict(f"the process grows by at most {GROWTH:.0f} MiB", f"{growth:+.1f} MiB", growth <= GROWTH),
        Verdict(f"the event loop goes on within {STILL * 1e3:.0f} ms", f"{still * 1e3:.0f} ms", still <= STILL),
    ]


def markdown(machine: Machine, rows: int, found: Sequence[Took], command: str) -> str:
    """What was run, on what, and what came of it."""
    told = f"One run of `{command}`: {rows:,} marks and as many sent rows in one SQLite file."
    rest = [
        "| | rows a second | seconds | grew by | stood still |",
        "| --- | ---: | ---: | ---: | ---: |",
        *(
            f"| {each.what} | {rows / each.seconds:,.0f} | {each.seconds:.1f} | {each.growth:+.1f} MiB | "
            f"{each.still * 1e3:.0f} ms |"
            for each in found
        ),
    ]
    return page("Upkeep of inbox and outbox", [told, machine.told], verdicts(found), rest)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 0 when every bar is met."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="python -m loadtest.upkeep", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="in each table (default %(default)s)")
    parser.add_argument("--report", type=Path, help="write the page here as well (Markdown)")
    given = parser.parse_args(arguments)
    if given.rows < 1:
        parser.error("--rows must be at least 1")
    with (
        tempfile.TemporaryDirectory(prefix="upkeep-") as home,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        found = runner.run(measured(Path(home), given.rows))
    text = markdown(Machine.here(), given.rows, found, " ".join(["python -m loadtest.upkeep", *arguments]))
    return publish(text, verdicts(found), given.report)


if __name__ == "__main__":
    sys.exit(main())
