"""How a run went over time: what was stored and settled, and which fault lasted from when to when. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct

from loadtest.chaos import conduct
from loadtest.chaos.catalogue import KINDS
from loadtest.chaos.evidence import Struck

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadtest.chaos.evidence import Evidence
    from loadtest.chaos.plan import Fault

_STEP: Final = 0.5
_MOST: Final = 300
"""Steps of a timeline: what can be told apart on a page."""


class Span(Struct, frozen=True, kw_only=True):
    """A fault. Seconds into the run; ``None`` when it never came to that.

    Attributes:
        lane: where it struck: ``server``, ``worker 1``, ``data`` ...
        told: what shows that it fired, or why it did not.
        elected: when a cluster that had lost its leader had another one.
        recovery: seconds from the end of an outage to the next stored message.
    """

    number: int
    kind: str
    lane: str
    detail: str
    planned: float
    begun: float | None
    fired: float | None
    healed: float | None
    elected: float | None = None
    told: str
    recovery: float | None


class Timeline(Struct, frozen=True, kw_only=True):
    """A run over time.

    Attributes:
        step: seconds of a bucket.
        stored: per second, a bucket each; ``settled`` likewise.
    """

    step: float
    stored: tuple[float, ...]
    settled: tuple[float, ...]
    faults: tuple[Span, ...]


def timeline(found: Evidence) -> Timeline:
    """The timeline of a run, from when its first message was stored."""
    if not found.stored_at:
        return Timeline(step=_STEP, stored=(), settled=(), faults=())
    began = found.stored_at[0]
    ended = max(found.stored_at[-1], found.effect_at[-1] if found.effect_at else began)
    step = max(_STEP, (ended - began) / _MOST)
    buckets = int((ended - began) / step) + 1
    return Timeline(
        step=step,
        stored=_rates(found.stored_at, began, step, buckets),
        settled=_rates(found.effect_at, began, step, buckets),
        faults=tuple(_spans(found, began)),
    )


def _rates(times: Sequence[float], began: float, step: float, buckets: int) -> tuple[float, ...]:
    counts = [0] * buckets
    for at in times:
        counts[max(0, min(buckets - 1, int((at - began) / step)))] += 1
    return tuple(round(count / step, 1) for count in counts)


def _spans(found: Evidence, began: float) -> list[Span]:
    return [_span(found, fault, found.faults.get(fault.number, Struck()), began) for fault in found.plan.faults]


def _span(found: Evidence, fault: Fault, struck: Struck, began: float) -> Span:
    kind = KINDS[fault.kind]
    times = (struck.begun, struck.fired, struck.healed, struck.elected)
    begun, fired, healed, elected = (None if at is None else round(at - began, 3) for at in times)
    taken = conduct.recovery(found, fault, struck)
    return Span(
        number=fault.number,
        kind=fault.kind,
        lane=f"worker {fault.target}" if fault.target else kind.track,
        detail=fault.detail,
        planned=fault.at,
        begun=begun,
        fired=fired,
        healed=healed,
        elected=elected,
        told=struck.told or "never begun",
        recovery=None if taken is None else round(taken, 3),
    )
