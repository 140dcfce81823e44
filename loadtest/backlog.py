"""``python -m loadtest.backlog``: does a long backlog slow a consumer down, or make it heavier?

Two streams differ only in how much they store. Consumers take turns on them, each a process of its own, the other way
round every second time. Each works off the first messages of its stream several times, with a new consumer each time
and the whole backlog still ahead, and in the end everything that is stored. The figures are medians; what is held
against a bar is the long stream's figure beside the short one's. The exit code is 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
from collections import defaultdict
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Final, NamedTuple

import uvloop

from broker import Entry, StreamBroker, StreamOptions
from broker.server import NatsServer
from loadtest.machine import Machine
from loadtest.verdicts import Verdict, beside, page, publish, spread

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from broker import StreamMessage
    from broker.contracts.options import LinkChoice

SHORT: Final = "SHORT"
LONG: Final = "LONG"
SLOWEST: Final = 0.85
"""The long backlog's rate beside the short one's, at least."""
HEAVIEST: Final = 4 << 20
"""Bytes by which a consumer of the long backlog may be the heavier one."""
_MIB: Final = 1 << 20
_CHUNK: Final = 20_000
"""Messages stored by one ``enqueue_many``, whose receipts it keeps."""
_SLOW: Final = 500.0
"""Messages a second below which a consumer is taken for stuck."""
_PATIENCE: Final = 60.0
_LINKS: Final[tuple[LinkChoice, ...]] = ("wire", "nats-py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one consumer process is asked to do.

    Attributes:
        url: of the server.
        stream: where.
        first: messages of each pass.
        passes: how often it begins anew.
        stored: messages of the last pass, which takes everything.
    """

    url: str
    link: LinkChoice
    stream: str
    first: int
    passes: int
    stored: int


class Run(NamedTuple):
    """What one consumer process came to.

    Attributes:
        rate: messages a second, the median of its passes.
        whole: messages a second when it worked off everything.
        peak: bytes of memory it ever had.
    """

    rate: float
    whole: float
    peak: int


# -- the consumer, a process of its own -------------------------------------------------------------------------------


async def worked_off(sb: StreamBroker, stream: str, count: int, durable: str) -> float:
    """Messages a second over the first ``count`` of a stream, from the first one handled to the last.

    Raises:
        RuntimeError: one was missing, came twice or in another order.
        TimeoutError: they did not come.
    """
    seen, wrong, first, last, done = 0, False, 0.0, 0.0, asyncio.Event()

    def handle(message: StreamMessage) -> None:
        nonlocal seen, wrong, first, last
        seen += 1
        first = first or perf_counter()
        wrong = wrong or message.sequence != seen
        if seen == count:
            last = perf_counter()
            done.set()

    consumption = await sb.consume(f"{stream}.>", handle, durable=durable, stream=stream, dead_letter=False)
    async with asyncio.timeout(_PATIENCE + count / _SLOW):
        await done.wait()
    await consumption.drain()
    await sb.consumers.delete(stream, durable)
    if wrong:
        raise RuntimeError(f"stream {stream}: {seen} messages did not come in order, each once")
    return (count - 1) / (last - first)


async def worker(work: Work) -> Run:
    """All passes, then everything."""
    async with StreamBroker.connect(work.url, link=work.link) as sb:
        rates = [await worked_off(sb, work.stream, work.first, f"pass-{number}") for number in range(work.passes)]
        whole = await worked_off(sb, work.stream, work.stored, "whole")
    unit = 1 if sys.platform == "darwin" else 1024
    return Run(median(rates), whole, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


# -- the measurement --------------------------------------------------------------------------------------------------


async def filled(sb: StreamBroker, stream: str, count: int, size: int) -> None:
    """A new stream with so many messages."""
    await sb.declare(StreamOptions(stream, [f"{stream}.>"], duplicate_window=1.0))
    body = b"x" * size
    for start in range(0, count, _CHUNK):
        chunk = min(_CHUNK, count - start)
        await sb.enqueue_many((Entry(f"{stream}.a", body) for _ in range(chunk)), timeout=_PATIENCE + chunk / _SLOW)


async def consumer(work: Work) -> Run:
    """The same in a process of its own.

    Raises:
        RuntimeError: it failed; what it said is on stderr.
    """
    told = json.dumps(asdict(work))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "loadtest.backlog", "--worker", told, stdout=asyncio.subprocess.PIPE
    )
    try:
        answer, _ = await process.communicate()
    finally:
        with suppress(ProcessLookupError):
            process.kill()
    if process.returncode:
        raise RuntimeError(f"the consumer of {work.stream} failed")
    return Run(*json.loads(answer))


async def measured(server: NatsServer, given: argparse.Namespace, tell: Callable[[str], None]) -> dict[str, list[Run]]:
    """Both streams filled, then round after round the runs of each."""
    sizes = {SHORT: given.short, LONG: given.long}
    async with StreamBroker.connect(server.url) as sb:
        for stream, stored in sizes.items():
            began = perf_counter()
            await filled(sb, stream, stored, given.size)
            tell(f"{stream}: {stored:,} messages of {given.size} B stored in {perf_counter() - began:.1f} s")
    runs: dict[str, list[Run]] = defaultdict(list)
    for number in range(given.rounds):
        for stream in (SHORT, LONG) if number % 2 == 0 else (LONG, SHORT):
            work = Work(
                url=server.url,
                link=given.link,
                stream=stream,
                first=given.short,
                passes=given.passes,
                stored=sizes[stream],
            )
            run = await consumer(work)
            runs[stream].append(run)
            tell(
                f"round {number + 1}: {stream:5} {run.rate:9,.0f}/s, everything {run.whole:9,.0f}/s, "
                f"{run.peak / _MIB:.1f} MiB"
            )
    return runs


# -- what it says -----------------------------------------------------------------------------------------------------


def verdicts(runs: Mapping[str, Sequence[Run]]) -> list[Verdict]:
    """Every figure beside its bar."""
    short, long = runs[SHORT], runs[LONG]
    rates = [each.rate for each in short]
    heavier = median(each.peak for each in long) - median(each.peak for each in short)
    return [
        beside(
            "first messages of a long backlog: rate beside a short one", rates, [each.rate for each in long], SLOWEST
        ),
        beside("all of a long backlog: rate beside a short one", rates, [each.whole for each in long], SLOWEST),
        Verdict(
            f"memory beside a short backlog (at most {HEAVIEST / _MIB:+.0f} MiB)",
            f"{heavier / _MIB:+.1f} MiB",
            heavier <= HEAVIEST,
        ),
    ]


def markdown(machine: Machine, given: argparse.Namespace, runs: Mapping[str, Sequence[Run]], command: str) -> str:
    """What was run, on what, and what came of it."""
    note = (
        f"The second column: of each run's {given.passes} passes the median, every pass with a consumer of its own and "
        f"from the first message of its stream on. Messages have {given.size} B; a plain handler counts them, and each "
        "is acked. Memory is the most that the consumer process ever had, everything worked off."
    )
    run_of = f"One run of `{command}`: {given.rounds} rounds; medians, and in brackets the lowest and the highest."
    rest = [
        f"| stored | first {given.short:,}, messages a second | everything, messages a second | peak memory, MiB |",
        "| ---: | ---: | ---: | ---: |",
        *(
            f"| {stored:,} | {spread([each.rate for each in runs[stream]])} "
            f"| {spread([each.whole for each in runs[stream]])} "
            f"| {spread([each.peak / _MIB for each in runs[stream]], '.1f')} |"
            for stream, stored in ((SHORT, given.short), (LONG, given.long))
        ),
        "",
        note,
    ]
    return page("A consumer and its backlog", [run_of, machine.told], verdicts(runs), rest)


async def _measure(given: argparse.Namespace, command: str) -> int:
    machine = Machine.here()
    async with NatsServer(sync_interval=None) as server:
        machine = replace(machine, nats_server=server.version)
        runs = await measured(server, given, lambda line: print(line, file=sys.stderr, flush=True))
    return publish(markdown(machine, given, runs, command), verdicts(runs), given.report)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 0 when every bar is met."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = _parser()
    given = parser.parse_args(arguments)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if given.worker is not None:
            print(json.dumps(runner.run(worker(Work(**json.loads(given.worker))))))
            return 0
        if not 2 <= given.short <= given.long:
            parser.error("--short must be at least 2, and --long no less")
        if min(given.rounds, given.passes, given.size) < 1:
            parser.error("--rounds, --passes and --size must be at least 1")
        return runner.run(_measure(given, " ".join(["python -m loadtest.backlog", *arguments])))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtest.backlog", description=__doc__)
    parser.add_argument("--short", type=int, default=10_000, help="messages of the short stream (default %(default)s)")
    parser.add_argument("--long", type=int, default=1_000_000, help="messages of the long one (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="runs on each stream (default %(default)s)")
    parser.add_argument("--passes", type=int, default=10, help="times a run begins anew (default %(default)s)")
    parser.add_argument("--size", type=int, default=128, help="bytes of a message (default %(default)s)")
    parser.add_argument("--link", choices=_LINKS, default="wire", help="(default %(default)s)")
    parser.add_argument("--report", type=Path, help="write the page here as well (Markdown)")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
