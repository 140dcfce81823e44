"""From runs to rows: medians, spreads, ratios and shares. A void run counts nowhere and is shown."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from loadtest.runs import Run
    from loadtest.workloads import Entrant, Workload

    Rounds = Mapping[int, Run]


@dataclass(frozen=True, slots=True)
class Spread:
    """A median and how far the values lie around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self | None:
        """``None`` when there is no value."""
        return cls(median(values), min(values), max(values)) if values else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A figure beside another's.

    Attributes:
        value: of the two medians: the ratio to the baseline, or the share of the raw socket.
        low: within one round, like ``high``.
        bar: what the value must reach; ``None`` when it is only shown.
        at_most: whether the value must not be above the bar, instead of not below.
    """

    value: float | None
    low: float | None
    high: float | None
    bar: float | None
    at_most: bool

    @property
    def verdict(self) -> str:
        """``met``, ``missed``, ``-`` without a bar, ``void`` without a single valid pair."""
        if self.value is None:
            return "void"
        if self.bar is None:
            return "-"
        return "met" if (self.value <= self.bar if self.at_most else self.value >= self.bar) else "missed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One entrant of a workload.

    Attributes:
        workload: its name; ``peer`` and ``shown`` tell the entrant.
        figure: messages per second, or for a latency the median in microseconds; between runs.
        p99: of a latency, microseconds, with ``lag_ms`` of its sender at p99.
        cpu: microseconds of the client's own processor time per message; of a latency the receiver's.
        ratio: of the figure to the baseline's.
        share: of what the raw socket does, 1 is as good as that.
        void: runs that do not count, of so many ``runs``.
    """

    workload: str
    peer: str
    shown: str
    flavour: str
    size: int
    latency: bool
    figure: Spread | None
    p99: Spread | None
    lag_ms: Spread | None
    cpu: Spread | None
    ratio: Measure
    share: Measure
    runs: int
    void: int


def compare(workload: Workload, runs: Iterable[Run]) -> list[Row]:
    """The rows of one workload, one for every entrant that ran; warm-up runs are left out."""
    counted = [run for run in runs if run.workload == workload.name and run.round > 0]
    of = {entrant: [run for run in counted if run.identity == entrant.identity] for entrant in workload.entrants}
    baseline = _valid(of[workload.baseline])
    raw = _valid(of[workload.raw]) if workload.raw else {}
    return [_row(workload, entrant, mine, baseline, raw) for entrant, mine in of.items() if mine]


def _valid(runs: Iterable[Run]) -> Rounds:
    return {run.round: run for run in runs if not run.void}


def _row(workload: Workload, entrant: Entrant, runs: Sequence[Run], baseline: Rounds, raw: Rounds) -> Row:
    ours = _valid(runs)
    late = [run.latency for run in ours.values() if run.latency]
    lower = workload.lower_is_better
    return Row(
        workload=workload.name,
        peer=entrant.peer,
        shown=entrant.shown,
        flavour=entrant.flavour,
        size=workload.size,
        latency=lower,
        figure=_figures(ours),
        p99=Spread.of([each.p99 for each in late]),
        lag_ms=Spread.of([each.lag_ms for each in late]),
        cpu=Spread.of([run.cpu_seconds / run.count * 1e6 for run in ours.values()]),
        ratio=_measure(ours, baseline, entrant.bar, at_most=lower),
        share=_measure(raw, ours, entrant.share_bar) if lower else _measure(ours, raw, entrant.share_bar),
        runs=len(runs),
        void=len(runs) - len(ours),
    )


def _measure(above: Rounds, below: Rounds, bar: float | None, *, at_most: bool = False) -> Measure:
    """One side's figures divided by the other's."""
    top, bottom = _figures(above), _figures(below)
    within = Spread.of([above[turn].figure / below[turn].figure for turn in above.keys() & below.keys()])
    return Measure(
        value=top.median / bottom.median if top and bottom and within else None,
        low=within.low if within else None,
        high=within.high if within else None,
        bar=bar,
        at_most=at_most,
    )


def _figures(runs: Rounds) -> Spread | None:
    return Spread.of([run.figure for run in runs.values()])
