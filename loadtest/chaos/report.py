"""The report of a run: everything a reader needs to judge it or to repeat it, in one file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

import msgspec
from msgspec import Struct

from loadtest.chaos.plan import Plan  # noqa: TC001 - msgspec reads the annotation
from loadtest.chaos.timeline import Timeline  # noqa: TC001 - likewise
from loadtest.chaos.verdict import Verdict  # noqa: TC001 - likewise
from loadtest.machine import Machine  # noqa: TC001 - likewise

if TYPE_CHECKING:
    from pathlib import Path

_FILE: Final = "judged.json"


class Judged(Struct, frozen=True):
    """What the checker has to say."""

    verdict: Verdict
    timeline: Timeline


class Report(Struct, frozen=True, kw_only=True):
    """One run.

    Attributes:
        began: date and time, ISO 8601.
        command: that does the same again.
        passed: whether it counts and every promise held.
        sentence: the verdict in one line.
    """

    began: str
    command: str
    machine: Machine
    passed: bool
    sentence: str
    verdict: Verdict
    plan: Plan
    timeline: Timeline

    @classmethod
    def of(cls, plan: Plan, judged: Judged, machine: Machine, *, began: str) -> Self:
        """The report of a run that was judged."""
        return cls(
            began=began,
            command=command(plan),
            machine=machine,
            passed=judged.verdict.passed,
            sentence=judged.verdict.sentence + (f" (SHORTENED: {plan.shortened})" if plan.shortened else ""),
            verdict=judged.verdict,
            plan=plan,
            timeline=judged.timeline,
        )

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self)) + b"\n")


def command(plan: Plan) -> str:
    """What repeats a run of one slice: the same faults at the same times."""
    return (
        f"gamebroker chaos --mode {plan.mode} --seed {plan.seed} --seconds {plan.seconds:g} --rate {plan.rate:g} "
        f"--faults {len(plan.faults)} --backend {plan.backend} --send {plan.send}"
        + circumstances(plan)
        + ("" if plan.everything else f" --scenario {' '.join(plan.scenarios)}")
    )


def circumstances(plan: Plan) -> str:
    """Its part that says where it all happens."""
    told = f" --db {plan.db} --workers {plan.workers} --durability {plan.durability}"
    return told + (f" --mutate {plan.mutation}" if plan.mutation else "")


def save_judged(directory: Path, judged: Judged) -> None:
    """The checker leaves it in the run's directory."""
    (directory / _FILE).write_bytes(msgspec.json.encode(judged))


def judged_in(directory: Path) -> Judged | None:
    """What the checker left there; ``None`` when it did not come that far."""
    try:
        left = (directory / _FILE).read_bytes()
    except FileNotFoundError:
        return None
    return msgspec.json.decode(left, type=Judged)
