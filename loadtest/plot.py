"""The plot: one panel per workload, a bar per client from zero, a whisker from its lowest to its highest run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape

from loadtest.workloads import BASELINE, OURS, RAW, SMALL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadtest.compare import Row
    from loadtest.report import Outcome

_COLUMNS: Final = 2
_WIDTH: Final = 560
_LABEL: Final = 215
_BARS: Final = 235
"""Pixels of the longest whisker; the figure stands to the right of it."""
_STEP: Final = 20
_THICK: Final = 13
_HEAD: Final = 34
_GAP: Final = 18
_COLOURS: Final = {OURS: "#1f6f54", BASELINE: "#8a8a8a", RAW: "#2b2b2b"}
_OTHERS: Final = "#9db7d5"


def svg(outcome: Outcome) -> str:
    """The rows with small bodies; those without a valid run say so instead of a bar."""
    names = dict.fromkeys(row.workload for row in outcome.rows if row.size == SMALL)
    panels = [[row for row in outcome.rows if row.workload == name] for name in names]
    drawn: list[str] = []
    top = 26
    for start in range(0, len(panels), _COLUMNS):
        line = panels[start : start + _COLUMNS]
        for column, rows in enumerate(line):
            drawn += _panel(outcome, rows, column * _WIDTH, top)
        top += _HEAD + max(len(rows) for rows in line) * _STEP + _GAP
    width = _WIDTH * _COLUMNS
    rounds = f"{outcome.rounds} round{'s' if outcome.rounds > 1 else ''}"
    title = f"Median of {rounds}, whiskers from the lowest to the highest run, {SMALL} B, every axis from zero"
    machine = f"{outcome.machine.cpu}, {outcome.machine.cores} cores, nats-server {outcome.machine.nats_server}"
    canvas = f'width="{width}" height="{top}" viewBox="0 0 {width} {top}" font-family="sans-serif" font-size="12"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {canvas}>',
            f'<rect width="{width}" height="{top}" fill="white"/>',
            _text(12, 17, f"{title}. {machine}", "fill='#444'"),
            *drawn,
            "</svg>\n",
        ]
    )


def _panel(outcome: Outcome, rows: Sequence[Row], left: int, top: int) -> list[str]:
    longest = max((row.figure.high for row in rows if row.figure), default=1.0)
    unit = "one-way latency, p50, microseconds: shorter is better" if rows[0].latency else "messages per second"
    drawn = [_text(left + 12, top + 20, f"{rows[0].workload}, {unit}", "font-weight='bold'")]
    for index, row in enumerate(rows):
        drawn += _bar(outcome, row, left, top + _HEAD + index * _STEP, _BARS / longest)
    return drawn


def _bar(outcome: Outcome, row: Row, left: int, top: int, scale: float) -> list[str]:
    middle = top + _THICK / 2
    name = f"{outcome.shown(row.peer)}: {row.shown}"
    drawn = [_text(left + _LABEL - 6, middle + 4, name, "text-anchor='end' font-size='10.5'")]
    if row.figure is None:
        return [*drawn, _text(left + _LABEL, middle + 4, "every run void", "fill='#a33'")]
    start = left + _LABEL
    low, high = start + row.figure.low * scale, start + row.figure.high * scale
    colour = _COLOURS.get(row.peer, _OTHERS)
    length = row.figure.median * scale
    ends = f"M{low:.1f} {top + 3}v{_THICK - 6}M{high:.1f} {top + 3}v{_THICK - 6}"
    return [
        *drawn,
        f'<rect x="{start}" y="{top}" width="{length:.1f}" height="{_THICK}" fill="{colour}"/>',
        f'<path d="M{low:.1f} {middle}H{high:.1f}{ends}" stroke="#d2691e" stroke-width="1.5"/>',
        _text(high + 6, middle + 4, f"{row.figure.median:,.0f}", "font-size='10.5'"),
    ]


def _text(x: float, y: float, words: str, style: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(words)}</text>'
