"""``python -m loadtest.once``: settlements a second whose effect happens exactly once, stream to database.

One worker, a process of its own, works off a filled stream through ``consume(inbox=...)``: a settlement is two
postings, committed with its mark and acked after that. It runs with a handler of one message and with handlers of
lists, in SQLite (full sync) and in PostgreSQL (fsync on), each turn in a database of its own, the other way round every
second round, and in a SQLite file whose inbox holds ``--rows`` marks already, among which the new ones fall anywhere.
What was written before a run is on the disk when it begins. The time is from ``consume`` to the last ack. A run whose
ledger is not whole is an error. The exit code is 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import sys
import tempfile
from collections import defaultdict
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import uvloop
from sqlalchemy import text

from broker import Entry, StreamBroker, StreamNotFound, StreamOptions
from broker.exactly_once import Inbox
from broker.server import NatsServer
from loadtest.machine import Machine
from loadtest.postgres import PostgresServer
from loadtest.verdicts import Verdict, beside, page, publish, spread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from broker import StreamMessage

SQLITE: Final = "SQLite"
POSTGRESQL: Final = "PostgreSQL"
EACH: Final = 1
"""The batch size that stands for a handler of one message."""
BARS: Final = {(SQLITE, EACH): 1_500.0, (SQLITE, 100): 6_000.0}
"""Settlements a second, at least."""
SLOWEST: Final = 0.75
"""The rate with a full inbox beside that with an empty one, at least."""
COMPARED: Final = 100
"""The batch size with which a full inbox is tried."""
STREAM: Final = "SETTLE"
CONSUMER: Final = "settlement"
_SUBJECT: Final = "battle.settle"
_STEP: Final = 100_000
_CHUNK: Final = 20_000
_SLOWEST_RUN: Final = 50.0
"""Settlements a second below which a worker is taken for stuck."""
_POST: Final = text("INSERT INTO postings (battle, player, coins) VALUES (:battle, :player, :coins)")
_KEYS: Final = 1 << 63
_MARKS: Final = """
    WITH RECURSIVE counted(n) AS (SELECT {start} UNION ALL SELECT n + 1 FROM counted WHERE n + 1 < {end})
    INSERT INTO gamebroker_inbox (consumer, subject, key, digest, stream, sequence, at)
    SELECT '{consumer}', '{subject}', printf('battle-%016x', n * {apart}), randomblob(32), '{stream}', n, n FROM counted
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one worker process is asked to do.

    Attributes:
        url: of the server.
        database: where the ledger is.
        settlements: how many there are.
        batch: how many the handler gets at once; 1 is a handler of one message.
    """

    url: str
    database: str
    settlements: int
    batch: int


class Case(NamedTuple):
    """One line of the table.

    Attributes:
        kind: of database.
        batch: see ``Work``.
        full: whether the inbox was full before.
    """

    kind: str
    batch: int
    full: bool = False


# -- the worker, a process of its own ---------------------------------------------------------------------------------


def postings(message: StreamMessage) -> list[dict[str, Any]]:
    """What a settlement writes: the loser's coins to the winner."""
    told = message.json()
    battle, coins = told["battle"], told["coins"]
    return [
        {"battle": battle, "player": told["winner"], "coins": coins},
        {"battle": battle, "player": told["loser"], "coins": -coins},
    ]


async def settle(message: StreamMessage, tx: AsyncConnection) -> None:
    """One settlement."""
    await tx.execute(_POST, postings(message))


async def settle_all(messages: Sequence[StreamMessage], tx: AsyncConnection) -> None:
    """A list of them."""
    await tx.execute(_POST, [each for message in messages for each in postings(message)])


async def worker(work: Work) -> float:
    """Settlements a second.

    Raises:
        TimeoutError: they were not all applied in time.
        RuntimeError: the ledger is not whole.
    """
    options: dict[str, Any] = {} if work.batch == EACH else {"batch_size": work.batch, "batch_timeout": 0.05}
    handler: Callable[..., Awaitable[None]] = settle if work.batch == EACH else settle_all
    async with Inbox(work.database) as inbox, StreamBroker.connect(work.url) as sb:
        before = await _ledger(inbox)
        began = perf_counter()
        consumption = await sb.consume(
            _SUBJECT, handler, durable=CONSUMER, max_ack_pending=max(1000, 4 * work.batch), inbox=inbox, **options
        )
        async with asyncio.timeout(60 + work.settlements / _SLOWEST_RUN):
            while inbox.stats.applied < work.settlements:  # noqa: ASYNC110 - the inbox counts, it tells nobody
                await asyncio.sleep(0.002)
        await consumption.drain()
        rate = work.settlements / (perf_counter() - began)
        after = await _ledger(inbox)
    if after != (before[0] + 2 * work.settlements, 0):
        raise RuntimeError(f"the ledger is not whole: {after[0] - before[0]} postings, sum {after[1]}")
    return rate


async def _ledger(inbox: Inbox) -> tuple[int, int]:
    async with inbox.engine.connect() as connection:
        rows = await connection.execute(text("SELECT count(*), coalesce(sum(coins), 0) FROM postings"))
        count, total = rows.one()
    return int(count), int(total)


# -- the measurement --------------------------------------------------------------------------------------------------


async def prepared(database: str) -> None:
    """The tables, empty."""
    async with Inbox(database) as inbox:
        await inbox.create()
        async with inbox.engine.begin() as connection:
            await connection.execute(text("CREATE TABLE postings (battle TEXT, player TEXT, coins INTEGER)"))


async def marked(database: str, rows: int) -> None:
    """So many marks of other settlements in an inbox (SQLite)."""
    async with Inbox(database) as inbox:
        for start in range(0, rows, _STEP):
            end = min(rows, start + _STEP)
            told = _MARKS.format(
                start=start, end=end, apart=_KEYS // rows, consumer=CONSUMER, subject=_SUBJECT, stream=STREAM
            )
            async with inbox.engine.begin() as connection:
                await connection.exec_driver_sql(told)


def key_of(turn: int, number: int) -> str:
    """As good as random, as battle ids are."""
    found = hashlib.blake2b(b"%d %d" % (turn, number), digest_size=8).digest()
    return f"battle-{int.from_bytes(found) % _KEYS:016x}"


async def filled(sb: StreamBroker, turn: int, settlements: int) -> None:
    """The stream anew, with so many settlements under keys of this turn."""
    with suppress(StreamNotFound):
        await sb.streams.delete(STREAM)
    await sb.declare(StreamOptions(STREAM, [_SUBJECT], duplicate_window=1.0))
    for start in range(0, settlements, _CHUNK):
        entries = [
            Entry(
                _SUBJECT,
                {"battle": f"{turn}-{n}", "winner": f"p{n % 997}", "loser": f"q{n % 991}", "coins": 1 + n % 50},
                idempotency_key=key_of(turn, n),
            )
            for n in range(start, min(settlements, start + _CHUNK))
        ]
        await sb.enqueue_many(entries, timeout=120)


async def run(work: Work) -> float:
    """What a worker in a process of its own came to.

    Raises:
        RuntimeError: it failed; what it said is on stderr.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "loadtest.once", "--worker", json.dumps(asdict(work)), stdout=asyncio.subprocess.PIPE
    )
    try:
        answer, _ = await process.communicate()
    finally:
        with suppress(ProcessLookupError):
            process.kill()
    if process.returncode:
        raise RuntimeError(f"the worker on {work.database} failed")
    return float(answer)


def cases(given: argparse.Namespace) -> list[Case]:
    """What takes part in every round."""
    found = [Case(kind, batch) for kind in given.databases for batch in given.batches]
    if given.rows and SQLITE in given.databases:
        empty = Case(SQLITE, COMPARED)
        found.insert(found.index(empty) + 1 if empty in found else len(found), empty._replace(full=True))
    return found


async def measured(
    server: NatsServer,
    given: argparse.Namespace,
    home: Path,
    postgres: PostgresServer | None,
    tell: Callable[[str], None],
) -> dict[Case, list[float]]:
    """Round after round, every case once."""
    rates: dict[Case, list[float]] = defaultdict(list)
    crowded = f"sqlite+aiosqlite:///{home / 'full.db'}"
    chosen = cases(given)
    if any(case.full for case in chosen):
        began = perf_counter()
        await prepared(crowded)
        await marked(crowded, given.rows)
        tell(f"{given.rows:,} marks written in {perf_counter() - began:.0f} s")
    turns = _turns(chosen, given.rounds)
    async with StreamBroker.connect(server.url) as sb:
        for turn, (number, case) in enumerate(turns):
            settlements = given.settlements if case.batch > EACH else max(1, given.settlements // 4)
            await filled(sb, turn, settlements)
            database = crowded if case.full else await _fresh(case, home, postgres, turn)
            await asyncio.to_thread(os.sync)  # nobody's run pays for what was written before it
            rate = await run(Work(url=server.url, database=database, settlements=settlements, batch=case.batch))
            rates[case].append(rate)
            tell(f"round {number + 1}: {_named(case, given):40} {rate:9,.0f}/s")
    return rates


def _turns(chosen: Sequence[Case], rounds: int) -> Iterator[tuple[int, Case]]:
    for number in range(rounds):
        yield from ((number, case) for case in (chosen if number % 2 == 0 else reversed(chosen)))


async def _fresh(case: Case, home: Path, postgres: PostgresServer | None, turn: int) -> str:
    if case.kind == SQLITE:
        database = f"sqlite+aiosqlite:///{home / f'ledger-{turn}.db'}"
    else:
        assert postgres is not None
        with postgres.connect() as connection:
            connection.execute(f"CREATE DATABASE ledger_{turn}".encode())
        database = postgres.url(f"ledger_{turn}")
    await prepared(database)
    return database


# -- what it says -----------------------------------------------------------------------------------------------------


def _named(case: Case, given: argparse.Namespace) -> str:
    how = "a message at a time" if case.batch == EACH else f"lists of {case.batch}"
    return f"{case.kind}, {how}" + (f", {given.rows:,} marks before" if case.full else "")


def verdicts(rates: Mapping[Case, Sequence[float]]) -> list[Verdict]:
    """Every figure that has a bar."""
    judged = []
    for (kind, batch), bar in BARS.items():
        if found := rates.get(Case(kind, batch)):
            what = f"{kind}, {'a message at a time' if batch == EACH else f'lists of {batch}'} (at least {bar:,.0f}/s)"
            judged.append(Verdict(what, spread(found), median(found) >= bar))
    empty, full = rates.get(Case(SQLITE, COMPARED)), rates.get(Case(SQLITE, COMPARED, full=True))
    if empty and full:
        judged.append(beside("a full inbox beside an empty one", empty, full, SLOWEST))
    return judged


def markdown(machine: Machine, given: argparse.Namespace, rates: Mapping[Case, Sequence[float]], command: str) -> str:
    """What was run, on what, and what came of it."""
    run_of = (
        f"One run of `{command}`: {given.rounds} rounds of {given.settlements:,} settlements (a quarter of that a "
        "message at a time); medians, and in brackets the lowest and the highest."
    )
    rest = [
        "| database, handler | settlements a second |",
        "| --- | ---: |",
        *(f"| {_named(case, given)} | {spread(found)} |" for case, found in rates.items()),
        "",
        "A settlement is two postings. Worker, nats-server, database and disk share the machine.",
    ]
    return page("Exactly once, how fast", [run_of, machine.told], verdicts(rates), rest)


async def _measure(given: argparse.Namespace, command: str) -> int:
    machine = Machine.here()
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="once-")))
        postgres = None
        if POSTGRESQL in given.databases:
            postgres = PostgresServer()
            stack.callback(postgres.remove)
            postgres.start()
        async with NatsServer(sync_interval=None) as server:
            machine = replace(machine, nats_server=server.version)
            rates = await measured(server, given, home, postgres, lambda line: print(line, file=sys.stderr, flush=True))
    return publish(markdown(machine, given, rates, command), verdicts(rates), given.report)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 0 when every bar is met."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = _parser()
    given = parser.parse_args(arguments)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if given.worker is not None:
            print(runner.run(worker(Work(**json.loads(given.worker)))))
            return 0
        if min(given.rounds, given.settlements, *given.batches) < 1 or given.rows < 0:
            parser.error("--rounds, --settlements and --batches must be at least 1, --rows at least 0")
        return runner.run(_measure(given, " ".join(["python -m loadtest.once", *arguments])))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtest.once", description=__doc__)
    parser.add_argument("--settlements", type=int, default=20_000, help="of a run (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each case (default %(default)s)")
    parser.add_argument("--batches", type=int, nargs="+", default=[EACH, 10, 100, 500], help="(default %(default)s)")
    parser.add_argument(
        "--databases", nargs="+", choices=(SQLITE, POSTGRESQL), default=[SQLITE, POSTGRESQL], help="(default both)"
    )
    parser.add_argument(
        "--rows", type=int, default=10_000_000, help="marks in the full inbox, 0: none (default %(default)s)"
    )
    parser.add_argument("--report", type=Path, help="write the page here as well (Markdown)")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
