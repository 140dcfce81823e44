"""What is measured, as data: the rows of the table, who runs in them and the bar each must meet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

BASELINE: Final = "natspy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrant:
    """One client doing one workload its own way.

    Attributes:
        peer: the file in ``loadtest.peers``.
        variant: the workload's name there.
        shown: how the table calls it.
        bar: ratio to the baseline that must be met; ``None`` when it is only shown.
    """

    peer: str
    variant: str
    shown: str
    bar: float | None = None

    def __str__(self) -> str:
        return f"{self.peer} {self.variant}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Entrants that do the same work beside each other.

    Attributes:
        name: on the command line and in the table.
        count: messages per run.
        baseline: what the others are compared to.
        entrants: one row of the table each.
    """

    name: str
    count: int
    baseline: Entrant
    entrants: tuple[Entrant, ...]

    @property
    def everyone(self) -> tuple[Entrant, ...]:
        """Baseline first."""
        return (self.baseline, *self.entrants)


def _natspy(variant: str, shown: str) -> Entrant:
    return Entrant(peer=BASELINE, variant=variant, shown=shown)


def _ours(variant: str, shown: str, bar: float | None = None) -> Entrant:
    return Entrant(peer="gamebroker", variant=variant, shown=shown, bar=bar)


WORKLOADS: Final = (
    Workload(
        name="publish",
        count=400_000,
        baseline=_natspy("publish", "await nc.publish"),
        entrants=(
            _ours("publish-nowait", "publish_nowait", 0.85),
            _ours("publish", "await publish", 0.85),
        ),
    ),
    Workload(
        name="subscribe",
        count=200_000,
        baseline=_natspy("subscribe", "async callback"),
        entrants=(
            _ours("subscribe", "plain handler", 0.85),
            _ours("subscribe-async", "async handler", 0.85),
        ),
    ),
    Workload(
        name="request64",
        count=40_000,
        baseline=_natspy("request", "await nc.request"),
        entrants=(_ours("request", "await request", 1.0),),
    ),
    Workload(
        name="append256",
        count=40_000,
        baseline=_natspy("append", "publish_async, sliding window"),
        entrants=(
            _ours("append", "enqueue_many", 1.4),
            _ours("append-keyed", "enqueue_many, own keys", 1.4),
        ),
    ),
    Workload(
        name="consume+ack",
        count=60_000,
        baseline=_natspy("consume", "fetch(500) + ack"),
        entrants=(
            _ours("consume", "consume, plain handler", 2.0),
            _ours("consume-async", "consume, async handler", 2.0),
        ),
    ),
    Workload(
        name="append1",
        count=5_000,
        baseline=_natspy("append-awaited", "await js.publish"),
        entrants=(_ours("append-awaited", "await enqueue"),),
    ),
)
