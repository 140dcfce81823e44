"""The report: Markdown tables to read, JSON to keep. A bar missed, a run void, a client missing: each is said."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from loadtest.bench import ENOUGH
from loadtest.workloads import BASELINE, OURS, RAW

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from loadtest.compare import Measure, Row, Spread
    from loadtest.lineup import Participant
    from loadtest.machine import Machine
    from loadtest.runs import Run

ESSENTIAL: Final = frozenset((BASELINE, OURS, RAW))
"""Without a valid run of these there is no ratio; of the others a void run is their own answer."""
_NOTE: Final = (
    "Median (lowest..highest) of the runs. Ratio and share are those of the medians, in brackets the lowest and "
    "the highest within one round. CPU is the client process alone; of a latency, the receiver. One nats-server, "
    "its default sync interval, file streams, R1; every client a process of its own, Python ones on "
    "uvloop; they take turns, in reversed order every second round. A run ends when the other side has "
    "everything: the subscriber counted it, the stream holds it, the server knows every ack."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Everything there is to report.

    Attributes:
        rounds: that count.
        scale: of the messages of every run.
    """

    machine: Machine
    turnout: Sequence[Participant]
    rows: Sequence[Row]
    runs: Sequence[Run]
    rounds: int
    scale: float

    @property
    def bars(self) -> Iterator[tuple[Row, str, Measure]]:
        """Each bar: the row, what of it is held against the bar, and the value."""
        for row in self.rows:
            if row.ratio.bar is not None:
                yield row, "ratio to nats-py", row.ratio
            if row.share.bar is not None:
                yield row, "share of raw socket", row.share

    @property
    def trusted(self) -> bool:
        """No run of nats-py, of this library or of the raw socket was void."""
        return not any(run.void and run.peer in ESSENTIAL for run in self.runs)

    def shown(self, peer: str) -> str:
        """How a table calls a peer."""
        return next((each.peer.shown for each in self.turnout if each.peer.name == peer), peer)


def markdown(outcome: Outcome) -> str:
    """All of it."""
    parts = [
        summary(outcome),
        "",
        *_throughput(outcome),
        *_latency(outcome),
        f"{_trust(outcome.rounds)}, count scale {outcome.scale:g}. {_NOTE}",
        "",
        *clients(outcome),
        "",
        *(f"- {line}" for line in void_lines(outcome.runs)),
    ]
    return "\n".join(parts).rstrip()


def summary(outcome: Outcome) -> str:
    """Machine, versions, bars and the verdict."""
    machine = outcome.machine
    heads = ("workload", "gamebroker", "measured", "value", "bar", "verdict")
    where = f"{machine.cpu}, {machine.cores} cores, load {machine.load:g} before the first run, {machine.kernel}"
    lines = [
        f"{where}, {machine.python}, nats-server {machine.nats_server}",
        "",
        *[f"- {each.told}" for each in outcome.turnout],
        "",
        *_table(heads, [_bar_cells(*each) for each in outcome.bars], text=3),
        "",
        f"**{verdict(outcome)}**",
    ]
    return "\n".join(lines)


def verdict(outcome: Outcome) -> str:
    """One sentence that hides nothing."""
    bars = list(outcome.bars)
    missed = [
        f"{row.workload} ({row.shown}: {what} {measure.value:.2f})"
        for row, what, measure in bars
        if measure.verdict == "missed"
    ]
    unknown = [f"{row.workload} ({row.shown}: {what})" for row, what, measure in bars if measure.verdict == "void"]
    void = sum(bool(run.void) for run in outcome.runs)
    told = [f"bars met: {sum(measure.verdict == 'met' for *_, measure in bars)} of {len(bars)}"]
    told += [f"MISSED: {', '.join(missed)}"] if missed else []
    told += [f"not measured: {', '.join(unknown)}"] if unknown else []
    told += [f"void: {void} of {len(outcome.runs)} runs"] if void else ["no run void"]
    return "; ".join(told)


def clients(outcome: Outcome) -> list[str]:
    """How each was used, or why it is missing."""
    return [
        f"- **{each.peer.shown}**: " + (f"missing, {each.missing}" if each.missing else each.peer.used)
        for each in outcome.turnout
    ]


def void_lines(runs: Sequence[Run]) -> list[str]:
    """Each run that does not count, and why."""
    return [f"void: {_turn(run)}, {run.workload}, {_client(run)}: {run.void}" for run in runs if run.void]


def progress(run: Run, place: int, runs: int, seconds: float) -> str:
    """One line per run while it goes on."""
    figure = f"{run.latency.p50:>9,.0f} us p50" if run.latency else f"{run.rate:>11,.0f}/s"
    where = f"[{place:>4}/{runs}  {seconds // 60:.0f}:{seconds % 60:02.0f}]"
    return (
        f"{where} {_turn(run):<8} {run.workload:<14} {_client(run):<34} {f'VOID: {run.void}' if run.void else figure}"
    )


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Everything: the machine, the settings, the rows and each run."""
    return {
        "machine": asdict(outcome.machine),
        "clients": {each.peer.name: {"versions": each.versions, "missing": each.missing} for each in outcome.turnout},
        "rounds": outcome.rounds,
        "count_scale": outcome.scale,
        "verdict": verdict(outcome),
        "bars": [
            {"workload": row.workload, "shown": row.shown, "of": what, **asdict(measure), "verdict": measure.verdict}
            for row, what, measure in outcome.bars
        ],
        "rows": [asdict(row) for row in outcome.rows],
        "runs": [{**asdict(run), "rate": run.rate} for run in outcome.runs],
    }


def _throughput(outcome: Outcome) -> list[str]:
    heads = ("workload", "client", "how", "messages/s", "ratio to nats-py", "share of raw", "CPU us/msg", "void")
    rows = [row for row in outcome.rows if not row.latency]
    cells = [
        [*_named(outcome, row), _spread(row.figure), *_compared(row), _median(row.cpu), _void(row)] for row in rows
    ]
    return [*_table(heads, cells, text=3), ""] if rows else []


def _latency(outcome: Outcome) -> list[str]:
    heads = (
        *("one-way latency", "client", "how", "p50 us", "p99 us", "ratio to nats-py", "share of raw"),
        *("sender late at p99, ms", "CPU us/msg", "void"),
    )
    rows = [row for row in outcome.rows if row.latency]
    cells = [
        [
            *(*_named(outcome, row), _spread(row.figure), _spread(row.p99), *_compared(row)),
            *(_median(row.lag_ms, ".2f"), _median(row.cpu), _void(row)),
        ]
        for row in rows
    ]
    return [*_table(heads, cells, text=3), ""] if rows else []


def _named(outcome: Outcome, row: Row) -> list[str]:
    return [row.workload, outcome.shown(row.peer), row.shown]


def _compared(row: Row) -> list[str]:
    ratio = "1" if row.peer == BASELINE else _measured(row.ratio)
    share = "1" if row.peer == RAW else _measured(row.share)
    return [ratio, share]


def _bar_cells(row: Row, what: str, measure: Measure) -> list[str]:
    bar = f"at {'most' if measure.at_most else 'least'} {measure.bar:.2f}"
    return [row.workload, row.shown, what, _measured(measure), bar, measure.verdict]


def _measured(measure: Measure) -> str:
    return "-" if measure.value is None else f"**{measure.value:.2f}** ({measure.low:.2f}..{measure.high:.2f})"


def _spread(spread: Spread | None) -> str:
    return "-" if spread is None else f"{spread.median:,.0f} ({spread.low:,.0f}..{spread.high:,.0f})"


def _median(spread: Spread | None, form: str = ".1f") -> str:
    return "-" if spread is None else format(spread.median, form)


def _void(row: Row) -> str:
    return f"{row.void} of {row.runs}" if row.void else "-"


def _client(run: Run) -> str:
    return f"{run.peer} {run.variant}" + (f" ({run.flavour})" if run.flavour else "")


def _trust(rounds: int) -> str:
    told = "1 round" if rounds == 1 else f"{rounds} rounds"
    if rounds < ENOUGH:
        return f"{told} (fewer than {ENOUGH}: an indication, not a measurement)"
    return f"{told}, twice as many where a bar judges"


def _turn(run: Run) -> str:
    return f"round {run.round}" if run.round else "warm-up"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, text: int) -> list[str]:
    """A Markdown table whose first columns are text and the others numbers."""
    rules = ["---"] * text + ["---:"] * (len(heads) - text)
    return [f"| {' | '.join(cells)} |" for cells in (heads, rules, *rows)]
