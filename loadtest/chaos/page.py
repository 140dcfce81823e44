"""The report as a page to look at: one HTML file that needs no other, with a timeline of rates, faults and recovery."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Final

from loadtest.chaos.drawing import drawing
from loadtest.chaos.series import Series

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from loadtest.chaos.report import Report
    from loadtest.chaos.timeline import Span

_STYLE: Final = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1120px; padding: 0 1em; color: #222 }
h1 { font-size: 1.4em } h2 { font-size: 1.1em; margin-top: 1.8em }
.verdict { padding: .7em 1em; border-left: 6px solid; background: #f5f5f2; font-weight: 600 }
.good { border-color: #1f6f54 } .bad { border-color: #b03a48 }
table { border-collapse: collapse; width: 100% }
td, th { text-align: left; padding: .2em .7em .2em 0; vertical-align: top }
tr { border-bottom: 1px solid #e6e6e0 } td.n { text-align: right; font-variant-numeric: tabular-nums }
code { background: #f5f5f2; padding: .1em .3em } svg { width: 100%; height: auto } .note { color: #666 }
"""


_LEGEND: Final = (
    "Settlements per second: confirmed as stored (green), taken effect (orange). Below, each fault from its beginning "
    "to its end, with a tail as long as the recovery; point at one to read what showed that it fired."
)


def page(whole: Report | Series) -> str:
    """The whole of it."""
    reports = whole.slices if isinstance(whole, Series) else (whole,)
    plan = reports[0].plan
    title = f"Chaos, {plan.mode} mode, seed {plan.seed}"
    head = [
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>',
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>",
    ]
    if isinstance(whole, Series):
        head += [_verdict(whole), f"<p>The same again: <code>{escape(whole.command)}</code></p>"]
    return "\n".join([*head, *(line for report in reports for line in _section(report)), "</body></html>\n"])


def _verdict(of: Report | Series) -> str:
    return f'<p class="verdict {"good" if of.passed else "bad"}">{escape(of.sentence)}</p>'


def _section(report: Report) -> list[str]:
    plan = report.plan
    return [
        f"<h1>{escape(plan.part)}: {plan.seconds:g} s, backend {escape(plan.backend)}, seed {plan.seed}</h1>",
        _verdict(report),
        f"<p>{escape(report.began)}. {escape(_conditions(report))}.<br>",
        f"The same again: <code>{escape(report.command)}</code></p>",
        "<h2>Timeline</h2>",
        drawing(report.timeline),
        f'<p class="note">{_LEGEND}</p>',
        "<h2>Promises</h2>",
        _table(
            ("", "promise", "held", "what was found"),
            [(f.number, f.promise, _HELD[f.held], f.told) for f in report.verdict.findings],
        ),
        "<h2>Figures</h2>",
        _table(("what", "figure"), _figures(report), numbers=True),
        "<h2>Faults</h2>",
        _table(
            ("", "planned", "fault", "where", "began", "recovery", "what showed it"),
            [_row(span) for span in report.timeline.faults],
        ),
    ]


def _conditions(report: Report) -> str:
    machine, plan = report.machine, report.plan
    return (
        f"{machine.cpu}, {machine.cores} cores, load {machine.load:g} before; gamebroker {machine.gamebroker}, "
        f"nats-server {machine.nats_server}, {machine.python}, backend {plan.backend}, {plan.db}, "
        f"durability {plan.durability}"
    )


_HELD: Final = {True: "yes", False: "NO", None: "not judged"}


def _figures(report: Report) -> list[tuple[str, str]]:
    it = report.verdict.figures
    recoveries = [
        (f"recovery after {kind}, median and longest", f"{_seconds(each.p50)}, {_seconds(each.max)}")
        for kind, each in it.recovery.items()
    ]
    return [
        ("settlements confirmed / taken effect", f"{it.confirmed:,} / {it.effects:,}"),
        ("per second", f"{it.effects / it.seconds:,.0f}" if it.seconds else ""),
        ("attempts without an answer / refused", f"{it.unknown:,} / {it.refused:,}"),
        ("redelivered / absorbed by the inbox / conflicts", f"{it.redelivered:,} / {it.repeats:,} / {it.conflicts:,}"),
        ("sent again after a loss on the server", f"{it.again:,}"),
        ("lost, twice, half, ghosts", f"{it.lost}, {it.twice}, {it.half}, {it.ghosts}"),
        ("sum of the ledger", f"{it.total}"),
        ("dead letters, and those not meant to be", f"{it.letters}, {it.unmeant}"),
        *recoveries,
        ("most growth of a process", f"{it.growth_mib:g} MiB"),
        ("longest end after SIGTERM", f"{it.drain:g} s"),
    ]


def _row(span: Span) -> tuple[str, ...]:
    what = f"{span.kind} at {span.detail}" if span.detail else span.kind
    told = span.told if span.fired is not None else f"DID NOT FIRE: {span.told}"
    began, recovery = _seconds(span.begun), "" if span.recovery is None else _seconds(span.recovery)
    return (str(span.number), f"{span.planned:.2f} s", what, span.lane, began, recovery, told)


def _seconds(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.2f} s"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = False) -> str:
    head = "".join(f"<th>{escape(each)}</th>" for each in heads)
    last = len(heads) - 1
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{' class=n' if numbers and at == last else ''}>{escape(cell)}</td>" for at, cell in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"
