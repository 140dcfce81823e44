"""From runs to rows: medians, spreads and ratios. A void run counts nowhere and is shown."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from loadtest.runs import Run
    from loadtest.workloads import Entrant, Workload


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
class Row:
    """One entrant beside its baseline.

    Attributes:
        workload: its name; ``ours`` and ``theirs`` are how the two sides are shown.
        rate: messages per second, ``baseline_rate`` likewise.
        cpu: microseconds of the client's own processor time per message, ``baseline_cpu`` likewise.
        ratio: of the two medians; ``round_low`` and ``round_high`` are the lowest and highest ratio within a round.
        bar: what the ratio must reach; ``None`` when it is only shown.
        void: runs on either side that do not count.
    """

    workload: str
    ours: str
    theirs: str
    bar: float | None
    rate: Spread | None
    baseline_rate: Spread | None
    cpu: Spread | None
    baseline_cpu: Spread | None
    ratio: float | None
    round_low: float | None
    round_high: float | None
    void: int

    @property
    def verdict(self) -> str:
        """``met``, ``missed``, ``-`` without a bar, ``void`` without a single valid pair."""
        if self.ratio is None:
            return "void"
        if self.bar is None:
            return "-"
        return "met" if self.ratio >= self.bar else "missed"


def compare(workload: Workload, runs: Iterable[Run]) -> list[Row]:
    """The rows of one workload; warm-up runs are left out."""
    counted = [run for run in runs if run.workload == workload.name and run.round > 0]
    baseline = _of(workload.baseline, counted)
    return [_row(workload, entrant, _of(entrant, counted), baseline) for entrant in workload.entrants]


def _of(entrant: Entrant, runs: Iterable[Run]) -> list[Run]:
    return [run for run in runs if (run.peer, run.variant) == (entrant.peer, entrant.variant)]


def _row(workload: Workload, entrant: Entrant, runs: Sequence[Run], baseline: Sequence[Run]) -> Row:
    ours = {run.round: run for run in runs if not run.void}
    theirs = {run.round: run for run in baseline if not run.void}
    rate, baseline_rate = _rates(ours.values()), _rates(theirs.values())
    within = Spread.of([ours[turn].rate / theirs[turn].rate for turn in ours.keys() & theirs.keys()])
    return Row(
        workload=workload.name,
        ours=entrant.shown,
        theirs=workload.baseline.shown,
        bar=entrant.bar,
        rate=rate,
        baseline_rate=baseline_rate,
        cpu=_cpu(ours.values()),
        baseline_cpu=_cpu(theirs.values()),
        ratio=rate.median / baseline_rate.median if rate and baseline_rate and within else None,
        round_low=within.low if within else None,
        round_high=within.high if within else None,
        void=sum(bool(run.void) for run in (*runs, *baseline)),
    )


def _rates(runs: Iterable[Run]) -> Spread | None:
    return Spread.of([run.rate for run in runs])


def _cpu(runs: Iterable[Run]) -> Spread | None:
    return Spread.of([run.cpu_seconds / run.count * 1e6 for run in runs])
