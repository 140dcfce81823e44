"""The verdict on a run: whether it counts at all, whether every promise held, and its figures. No I/O."""

from __future__ import annotations

from collections import Counter
from statistics import median
from typing import TYPE_CHECKING

from msgspec import Struct

from loadtest.chaos import conduct, effects
from loadtest.chaos.findings import Finding, named
from loadtest.chaos.histories import Op

if TYPE_CHECKING:
    from loadtest.chaos.evidence import Evidence


class Recovery(Struct, frozen=True):
    """Seconds from the end of an outage to the next stored message: the median and the longest; ``None``: never."""

    p50: float | None
    max: float | None


class Figures(Struct, frozen=True, kw_only=True):
    """What a run came to, in numbers.

    Attributes:
        confirmed: settlements the server confirmed; ``unknown``, ``refused``: attempts without an answer, and with no.
        effects: settlements that took effect; ``redelivered``: deliveries beyond the first.
        repeats: deliveries the inbox absorbed; ``conflicts`` those it refused.
        again: sent once more by ``reconcile``, for a server had lost them.
        letters: dead letters; ``unmeant`` of them had been meant to take effect, and can be seen instead.
        seconds: from the first stored message to the last one that took effect.
    """

    confirmed: int
    unknown: int
    refused: int
    effects: int
    redelivered: int
    repeats: int
    conflicts: int
    again: int
    letters: int
    unmeant: int
    lost: int
    twice: int
    half: int
    ghosts: int
    total: int
    seconds: float
    faults: dict[str, int]
    recovery: dict[str, Recovery]
    growth_mib: float
    drain: float


class Verdict(Struct, frozen=True):
    """What the checker says.

    Attributes:
        void: why the run proves nothing, in words.
        findings: one per promise.
    """

    void: tuple[str, ...]
    findings: tuple[Finding, ...]
    figures: Figures

    @property
    def broken(self) -> list[Finding]:
        """The promises that did not hold."""
        return [each for each in self.findings if each.held is False]

    @property
    def passed(self) -> bool:
        """Whether the run counts and every promise held."""
        return not self.void and not self.broken

    @property
    def sentence(self) -> str:
        """In one line."""
        if self.broken:
            return "FAILED: " + "; ".join(f"{each.number} {each.told}" for each in self.broken)
        if self.void:
            return "VOID: " + "; ".join(self.void)
        it = self.figures
        return (
            f"PASSED: {it.effects:,} settlements under {sum(it.faults.values())} faults, "
            f"{it.lost} lost, {it.twice} twice, {it.half} half, {it.ghosts} ghosts, sum {it.total}"
        )


def judge(found: Evidence) -> Verdict:
    """The verdict."""
    return Verdict(tuple(_void(found)), (*effects.judged(found), *conduct.judged(found)), _figures(found))


def _void(found: Evidence) -> list[str]:
    faults = {
        f"{fault.number} {fault.kind}: {struck.told if struck is not None and struck.told else 'never begun'}"
        for fault in found.plan.faults
        if (struck := found.faults.get(fault.number)) is None or struck.fired is None
    }
    effected, least = len(found.ledger.effects), found.plan.least
    return [
        *filter(None, [named("planned faults did not fire", faults)]),
        *([] if found.stored else ["nothing was stored"]),
        *([] if effected >= least else [f"only {effected:,} settlements took effect, of {least:,} at least"]),
        *([] if found.left is not None else ["nobody looked what was left at the end"]),
    ]


def _figures(found: Evidence) -> Figures:
    ledger, counts = found.ledger, found.counts
    fired = Counter(
        fault.kind
        for fault in found.plan.faults
        if (struck := found.faults.get(fault.number)) is not None and struck.fired is not None
    )
    span = found.effect_at[-1] - found.stored_at[0] if found.effect_at and found.stored_at else 0.0
    return Figures(
        confirmed=len(found.stored),
        unknown=counts[Op.UNKNOWN],
        refused=counts[Op.FAIL],
        effects=len(ledger.effects),
        redelivered=found.redelivered,
        repeats=counts[Op.REPEAT],
        conflicts=sum(reason == "conflict" for reason in found.letters.values()),
        again=int(sum(life.beats[-1][1].get("again", 0.0) for life in found.lives.values() if life.beats)),
        letters=len(found.letters),
        unmeant=len(effects.unmeant(found)),
        lost=len(effects.lost(found)),
        twice=len(ledger.twice),
        half=len(ledger.half),
        ghosts=len(effects.ghosts(found)),
        total=ledger.total,
        seconds=round(span, 2),
        faults=dict(sorted(fired.items())),
        recovery={kind: _recovery(times) for kind, times in conduct.recoveries(found).items()},
        growth_mib=round(max(conduct.growth(found).values(), default=0.0), 1),
        drain=round(max((life.took for life in found.lives.values() if life.why == "asked"), default=0.0), 2),
    )


def _recovery(times: list[float]) -> Recovery:
    return Recovery(_finite(median(times)), _finite(max(times)))


def _finite(seconds: float) -> float | None:
    return None if seconds == float("inf") else round(seconds, 3)
