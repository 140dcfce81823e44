"""The curve as a table, where it bends, and everything as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from loadtest.capacity.limits import HOP_LIMIT, LAG_LIMIT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadtest.capacity.limits import Step, Times
    from loadtest.capacity.step import Setting
    from loadtest.machine import Machine

_HEADS: Final = (
    "rooms",
    "frame hop p50 / p99 / max",
    "command hop p50 / p99 / max",
    "tick late p99",
    "skipped",
    "CPU server",
    "CPU room",
    "CPU generator",
    "lag p99",
    "verdict",
)
_NOTE: Final = (
    "Times in ms, rounded up to 0.1. Frame hop: from the deadline of a frame's tick to each player's callback behind "
    "the gateway. Command hop: from when a gateway's message was due to the room's callback. Tick late: how late rooms "
    "ran their ticks. Lag: how late the generator was by its own schedule; above {lag:g} ms at p99 the step is void, "
    "since then the generator was measured. CPU: share of one core. Held means: both hops below {hop:g} ms at p99, no "
    "tick skipped, no frame lost. A tick may run 1 ms early, since timers are that coarse. One clock: all "
    "processes run on this machine and share its cores."
)


def markdown(machine: Machine, setting: Setting, steps: Sequence[Step]) -> str:
    """Machine, curve, and where it bends."""
    ordered = sorted(steps, key=lambda step: step.rooms)
    versions = f"gamebroker {machine.gamebroker}, uvloop {machine.uvloop}, {machine.python}"
    processes = _counted(setting.generators, "generator process", "generator processes")
    players = f"Rooms of {setting.players} players at {setting.tick_rate} Hz"
    return "\n".join(
        [
            f"{machine.cpu}, {machine.cores} cores, load {machine.load:g} before the first step, {machine.kernel}",
            f"{versions}, nats-server {machine.nats_server}",
            "",
            f"{players} in one room process, on one server, {processes}; {setting.seconds:g} s a step.",
            "",
            _line(_HEADS),
            _line(["---:", *["---"] * 2, *["---:"] * 6, "---"]),
            *(_line(_cells(step)) for step in ordered),
            "",
            _NOTE.format(lag=LAG_LIMIT, hop=HOP_LIMIT),
            "",
            bend(steps),
        ]
    )


def bend(steps: Sequence[Step]) -> str:
    """Where the curve bends and which limit was met, in one sentence."""
    held = max((step.rooms for step in steps if step.held), default=0)
    kept = max((step.rooms for step in steps if step.kept), default=0)
    told = f"{held} rooms held" if held else "no number of rooms was held"
    if kept > held:
        told += f"; up to {kept} every limit was kept, but the generator was late, so that these steps are void"
    above = [step for step in steps if step.rooms > kept]
    if not above:
        return f"{told}; more were not tried, so the curve does not bend here."
    first = min(step.rooms for step in above)
    broken = [step for step in above if step.rooms == first and not step.void]
    if broken:
        return f"{told}; it bends at {first}: {'; '.join(step.verdict for step in broken)}."
    reasons = "; ".join(step.void for step in above if step.rooms == first)
    return (
        f"{told}; at {first} the generator was the limit, not the room or the server ({reasons}): "
        "more --generators, or a machine with more cores, would show where these bend."
    )


def progress(step: Step) -> str:
    """One line per step while it goes on."""
    return (
        f"{step.rooms:>5} rooms  frame hop p99 {step.frame_hop.p99:>6.1f}  command hop p99 {step.command_hop.p99:>6.1f}"
        f"  skipped {step.skipped:>4}  CPU {_cpu(step, 'server')} {_cpu(step, 'room')} {_cpu(step, 'generator')}"
        f"  {step.verdict}"
    )


def as_json(machine: Machine, setting: Setting, steps: Sequence[Step]) -> dict[str, Any]:
    """Everything: machine, setting, every step as it was tried, and the sentence."""
    return {
        "machine": asdict(machine),
        "setting": asdict(setting),
        "held": max((step.rooms for step in steps if step.held), default=0),
        "bend": bend(steps),
        "steps": [step.as_json() for step in steps],
    }


def _cells(step: Step) -> list[str]:
    measured = not step.problem
    return [
        str(step.rooms),
        _told(step.frame_hop) if measured else "-",
        _told(step.command_hop) if measured else "-",
        f"{step.lateness:.1f}" if measured else "-",
        str(step.skipped) if measured else "-",
        *(_cpu(step, name) for name in ("server", "room", "generator")),
        f"{step.lag:.1f}" if measured else "-",
        step.verdict,
    ]


def _told(times: Times) -> str:
    return f"{times.p50:.1f} / {times.p99:.1f} / {times.max:.1f}"


def _cpu(step: Step, name: str) -> str:
    return f"{step.cpu[name]:.0%}" if name in step.cpu else "-"


def _counted(count: int, one: str, many: str) -> str:
    return f"1 {one}" if count == 1 else f"{count} {many}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
