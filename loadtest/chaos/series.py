"""The report of a run in several slices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import msgspec
from msgspec import Struct

from loadtest.chaos.report import Report, circumstances

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class Series(Struct, frozen=True, kw_only=True):
    """All slices.

    Attributes:
        command: that does the same again.
        passed: whether each of them counts and holds.
        sentence: the verdict in one line.
        seconds: planned for producing; ``effects``, ``faults`` likewise of all slices.
        slices: a report for each.
    """

    began: str
    command: str
    passed: bool
    sentence: str
    seconds: float
    effects: int
    faults: int
    slices: tuple[Report, ...]

    @classmethod
    def of(cls, reports: Sequence[Report]) -> Self:
        """The report of all of them, in order."""
        effects = sum(each.verdict.figures.effects for each in reports)
        faults = sum(sum(each.verdict.figures.faults.values()) for each in reports)
        seconds = sum(each.plan.seconds for each in reports)
        passed = all(each.passed for each in reports)
        told = "; ".join(f"{each.plan.part}: {each.sentence}" for each in reports)
        return cls(
            began=reports[0].began,
            command=_command(reports, seconds),
            passed=passed,
            sentence=f"{'PASSED' if passed else 'NOT PASSED'}: {effects:,} settlements under {faults} faults; {told}",
            seconds=seconds,
            effects=effects,
            faults=faults,
            slices=tuple(reports),
        )

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self)) + b"\n")


def _command(reports: Sequence[Report], seconds: float) -> str:
    first = reports[0].plan
    planned = sum(len(each.plan.faults) for each in reports)
    asked = {name: None for each in reports for name in each.plan.scenarios}
    return (
        f"gamebroker chaos --mode {first.mode} --seed {first.seed} --seconds {seconds:g} --faults {planned}"
        + circumstances(first)
        + ("" if all(each.plan.everything for each in reports) else f" --scenario {' '.join(asked)}")
    )
