"""The timeline of a run as a drawing: rates above, faults below, the same seconds for both."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadtest.chaos.timeline import Span, Timeline

_WIDTH: Final = 1100
_LEFT: Final = 90
_TALL: Final = 200
_LANE: Final = 26
_MARKS: Final = (1, 2, 5, 10, 20, 30, 60, 120, 300)
_MOST_MARKS: Final = 16
_COLOURS: Final = {"stored": "#1f6f54", "settled": "#d2691e"}
_LANES: Final = {"server": "#b03a48", "data": "#4a6fa5"}
_OF_WORKERS: Final = "#8a6d1f"


def drawing(line: Timeline) -> str:
    """The timeline as SVG."""
    lanes = sorted({span.lane for span in line.faults})
    seconds = max([len(line.stored) * line.step, *(span.healed or 0.0 for span in line.faults), 1.0])
    high = max([*line.stored, *line.settled, 1.0])
    height = _TALL + 30 + _LANE * len(lanes) + 24
    scale = (_WIDTH - _LEFT - 10) / seconds

    def x(at: float) -> float:
        return _LEFT + max(0.0, at) * scale

    drawn = [f'<svg viewBox="0 0 {_WIDTH} {height}" font-size="11" font-family="sans-serif">']
    for share in (0.0, 0.5, 1.0):
        y = 10 + _TALL * (1 - share)
        drawn.append(f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - 10}" stroke="#ddd"/>')
        drawn.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{high * share:,.0f}/s</text>')
    for name, rates in (("stored", line.stored), ("settled", line.settled)):
        points = " ".join(
            f"{x((at + 0.5) * line.step):.1f},{10 + _TALL * (1 - rate / high):.1f}" for at, rate in enumerate(rates)
        )
        drawn.append(f'<polyline points="{points}" fill="none" stroke="{_COLOURS[name]}" stroke-width="1.5"/>')
    for number, lane in enumerate(lanes):
        top = _TALL + 30 + number * _LANE
        drawn.append(f'<text x="{_LEFT - 8}" y="{top + 14}" text-anchor="end">{escape(lane)}</text>')
        drawn += [_fault(span, x, top) for span in line.faults if span.lane == lane and span.begun is not None]
    mark = next((each for each in _MARKS if seconds / each <= _MOST_MARKS), _MARKS[-1])
    drawn += [
        f'<text x="{x(at):.1f}" y="{height - 6}" text-anchor="middle">{at} s</text>'
        for at in range(0, int(seconds) + 1, mark)
    ]
    return "\n".join([*drawn, "</svg>"])


def _fault(span: Span, x: Callable[[float], float], top: int) -> str:
    """A box as long as it lasted; hollow when it did not fire, with a tail as long as the recovery."""
    begun, healed = span.begun or 0.0, span.healed if span.healed is not None else span.begun or 0.0
    colour = _LANES.get(span.lane, _OF_WORKERS)
    fill = colour if span.fired is not None else "none"
    recovery = "" if span.recovery is None else f", next stored after {span.recovery:.2f} s"
    told = f"{span.number} {span.kind} {span.detail} at {begun:.2f} s: {span.told}{recovery}"
    tail = ""
    if span.recovery is not None:
        line = f"M{x(healed):.1f} {top + 9}H{x(healed + span.recovery):.1f}"
        tail = f'<path d="{line}" stroke="{colour}" stroke-width="4" opacity=".4"/>'
    place = f'x="{x(begun):.1f}" y="{top}" width="{max(4.0, x(healed) - x(begun)):.1f}" height="18"'
    box = f'<rect {place} fill="{fill}" stroke="{colour}" opacity=".85"/>'
    return f"<g><title>{escape(told)}</title>{box}{tail}</g>"
