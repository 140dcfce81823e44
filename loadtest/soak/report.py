"""The evidence: a page to read, JSON to keep."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from loadtest.soak.verdict import MIB

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadtest.machine import Machine
    from loadtest.soak.verdict import Findings
    from loadtest.soak.vitals import Sample

_ROWS: Final = 20
_NOTE: Final = (
    "Memory, tasks, file descriptors and objects are those of the one process that holds both brokers: a room that "
    "publishes, asks and enqueues, and a worker that listens, answers and consumes. Growth is from the median of the "
    "first window after the warm-up to the median of the last window."
)


def progress(sample: Sample, reconnects: int) -> str:
    """One line while it runs."""
    return (
        f"{sample.at:6.0f} s  {sample.sent:>10,} messages  {sample.rss / MIB:7.1f} MiB  {sample.tasks:4} tasks  "
        f"{sample.fds:3} fds  {sample.objects:,} objects  {reconnects} reconnects"
    )


def markdown(
    machine: Machine, found: Findings, samples: Sequence[Sample], objections: Sequence[str], *, title: str, command: str
) -> str:
    """What was run, on what, what came of it, and how the process grew."""
    lines = [
        f"# {title}",
        "",
        f"One run of `{command}`; every sample is in the JSON beside this page.",
        "",
        f"{machine.cpu}, {machine.cores} cores, load {machine.load:g} before, {machine.kernel}",
        _versions(machine),
        "",
        f"**{'FAILED: ' + '; '.join(objections) if objections else 'passed'}**",
        "",
        "| what | figure |",
        "| --- | ---: |",
        *(f"| {what} | {figure} |" for what, figure in _figures(found)),
        "",
        "| second | messages | memory MiB | tasks | file descriptors | objects |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
        *(
            f"| {each.at:.0f} | {each.sent:,} | {each.rss / MIB:.1f} | {each.tasks} | {each.fds} | {each.objects:,} |"
            for each in samples[:: max(1, len(samples) // _ROWS)]
        ),
        "",
        _NOTE,
        "",
    ]
    return "\n".join(lines)


def as_json(
    machine: Machine, found: Findings, samples: Sequence[Sample], objections: Sequence[str], *, command: str
) -> dict[str, Any]:
    """Everything."""
    return {
        "command": command,
        "machine": asdict(machine),
        "objections": list(objections),
        "findings": {**asdict(found), "lost": found.lost},
        "samples": [asdict(each) for each in samples],
    }


def _versions(machine: Machine) -> str:
    ours = f"gamebroker {machine.gamebroker}, nats-py {machine.nats_py}, uvloop {machine.uvloop}"
    return f"{ours}, {machine.python}, nats-server {machine.nats_server}"


def _figures(found: Findings) -> list[tuple[str, str]]:
    asked = ", ".join(f"{kind} {count:,}" for kind, count in sorted(found.asked.items()))
    faults = ", ".join(f"{kind}: {count}" for kind, count in sorted(found.faults.items()))
    grown = found.growth
    return [
        ("messages sent", f"{found.sent:,} in {found.seconds:.0f} s ({found.sent / found.seconds:,.0f}/s)"),
        ("faults", faults or "none"),
        ("reconnects of the two brokers", f"{found.reconnects}"),
        ("memory growth after the warm-up", f"{grown.rss / MIB:+.2f} MiB"),
        ("tasks, file descriptors, objects", f"{grown.tasks:+d}, {grown.fds:+d}, {grown.objects:+,d}"),
        ("left after closing: tasks, file descriptors", f"{found.left_tasks}, {found.left_fds}"),
        ("core published / arrived", f"{found.published:,} / {found.arrived:,}"),
        ("core dropped and counted: outbound, inbound", f"{found.dropped_outbound:,}, {found.dropped_inbound:,}"),
        ("core lost on connections that broke", f"{found.lost:,}"),
        ("core missing without a reason; twice; late", f"{found.unexplained}; {found.repeated}; {found.late}"),
        ("requests", asked),
        ("keys stored / messages in the stream", f"{found.stored:,} / {found.held:,}"),
        ("keys handled / stored and never handled", f"{found.handled:,} / {found.missing}"),
        ("handed out again (at least once is the promise)", f"{found.again:,}"),
        ("enqueues of unknown outcome, sent again", f"{found.unknown}"),
    ]
