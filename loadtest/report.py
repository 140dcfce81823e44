"""The report: a Markdown table to read, JSON to keep."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadtest.compare import Row, Spread
    from loadtest.machine import Machine
    from loadtest.runs import Run

_HEADS: Final = ("workload", "gamebroker", "nats-py", "/s", "nats-py /s", "ratio", "bar", "verdict", "CPU us/msg")
ENOUGH: Final = 5
"""Rounds below which medians and spreads say little."""
_NOTE: Final = (
    "Median (lowest..highest). The ratio is that of the two medians, in brackets the lowest and highest ratio within "
    "one round. CPU is the client process alone, ours / nats-py. 128 B bodies; one nats-server, its default sync "
    "interval, file streams, R1; uvloop and a process of its own for every client; clients take turns, in reversed "
    "order every second round; a first round warms up and is not counted."
)


def markdown(machine: Machine, rows: Sequence[Row], runs: Sequence[Run], *, rounds: int, scale: float) -> str:
    """Machine, table, what was void, and the verdict."""
    lines = [
        f"{machine.cpu}, {machine.cores} cores, load {machine.load:g} before the first run, {machine.kernel}",
        _versions(machine),
        "",
        _line(_HEADS),
        _line(["---"] * 3 + ["---:"] * 4 + ["---"] + ["---:"]),
        *(_line(_cells(row)) for row in rows),
        "",
        f"{_trust(rounds)}, count scale {scale:g}. {_NOTE}",
        "",
        *void_lines(runs),
        verdict(rows, runs),
    ]
    return "\n".join(lines)


def verdict(rows: Sequence[Row], runs: Sequence[Run]) -> str:
    """One sentence that hides nothing."""
    barred = [row for row in rows if row.bar is not None]
    missed = [f"{row.workload} ({row.ours})" for row in barred if row.verdict == "missed"]
    unknown = [f"{row.workload} ({row.ours})" for row in rows if row.verdict == "void"]
    void = sum(bool(run.void) for run in runs)
    told = [f"bars met: {sum(row.verdict == 'met' for row in barred)} of {len(barred)}"]
    told += [f"MISSED: {', '.join(missed)}"] if missed else []
    told += [f"not measured: {', '.join(unknown)}"] if unknown else []
    told += [f"void: {void} of {len(runs)} runs"] if void else ["no run void"]
    return "; ".join(told)


def void_lines(runs: Sequence[Run]) -> list[str]:
    """Each run that does not count, and why."""
    return [f"void: {_turn(run)}, {run.workload}, {run.peer} {run.variant}: {run.void}" for run in runs if run.void]


def progress(run: Run, rounds: int) -> str:
    """One line per run while it goes on."""
    turn = f"{_turn(run)}/{rounds}" if run.round else _turn(run)
    outcome = f"VOID: {run.void}" if run.void else f"{run.rate:>11,.0f}/s"
    return f"{turn:<11} {run.workload:<12} {run.peer:<11} {run.variant:<16} {outcome}"


def as_json(machine: Machine, rows: Sequence[Row], runs: Sequence[Run], *, rounds: int, scale: float) -> dict[str, Any]:
    """Everything: the machine, the settings, the rows and each run."""
    return {
        "machine": asdict(machine),
        "rounds": rounds,
        "count_scale": scale,
        "verdict": verdict(rows, runs),
        "rows": [{**asdict(row), "verdict": row.verdict} for row in rows],
        "runs": [{**asdict(run), "rate": run.rate} for run in runs],
    }


def _versions(machine: Machine) -> str:
    ours = f"gamebroker {machine.gamebroker}, nats-py {machine.nats_py}, uvloop {machine.uvloop}"
    return f"{ours}, {machine.python}, nats-server {machine.nats_server}"


def _trust(rounds: int) -> str:
    told = "1 round" if rounds == 1 else f"{rounds} rounds"
    return told if rounds >= ENOUGH else f"{told} (fewer than {ENOUGH}: an indication, not a measurement)"


def _turn(run: Run) -> str:
    return f"round {run.round}" if run.round else "warm-up"


def _cells(row: Row) -> list[str]:
    return [
        row.workload,
        row.ours,
        row.theirs,
        _rate(row.rate),
        _rate(row.baseline_rate),
        "-" if row.ratio is None else f"**{row.ratio:.2f}** ({row.round_low:.2f}..{row.round_high:.2f})",
        "-" if row.bar is None else f"{row.bar:.2f}",
        f"{row.verdict} ({row.void} void)" if row.void else row.verdict,
        f"{row.cpu.median:.1f} / {row.baseline_cpu.median:.1f}" if row.cpu and row.baseline_cpu else "-",
    ]


def _rate(spread: Spread | None) -> str:
    return "-" if spread is None else f"{spread.median:,.0f} ({spread.low:,.0f}..{spread.high:,.0f})"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
