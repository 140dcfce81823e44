"""Figures held against their bars, and the page that tells them: what the smaller measurements have in common."""

from __future__ import annotations

import sys
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class Verdict(NamedTuple):
    """One figure held against its bar.

    Attributes:
        what: in words, with the bar.
        value: the figure, as it is printed.
        met: whether it keeps to the bar.
    """

    what: str
    value: str
    met: bool


def beside(what: str, theirs: Sequence[float], ours: Sequence[float], least: float) -> Verdict:
    """The ratio of two medians, with the lowest and the highest ratio of a round; at least ``least``."""
    ratio = median(ours) / median(theirs)
    each = sorted(mine / other for mine, other in zip(ours, theirs, strict=True))
    told = f"{ratio:.2f} ({each[0]:.2f}..{each[-1]:.2f})"
    return Verdict(f"{what} (at least {least})", told, ratio >= least)


def spread(figures: Sequence[float], how: str = ",.0f") -> str:
    """The median, and in brackets the lowest and the highest."""
    return f"{median(figures):{how}} ({min(figures):{how}}..{max(figures):{how}})"


def page(title: str, told: Sequence[str], judged: Sequence[Verdict], rest: Sequence[str]) -> str:
    """Markdown: what was run on what, the verdicts, and ``rest``."""
    missed = [each.what for each in judged if not each.met]
    lines = [
        f"# {title}",
        *(line for each in told for line in ("", each)),
        "",
        f"**{'MISSED: ' + '; '.join(missed) if missed else 'every bar met'}**",
        "",
        "| what | figure | verdict |",
        "| --- | ---: | --- |",
        *(f"| {each.what} | {each.value} | {'met' if each.met else 'missed'} |" for each in judged),
        "",
        *rest,
        "",
    ]
    return "\n".join(lines)


def publish(text: str, judged: Sequence[Verdict], report: Path | None) -> int:
    """Print the page, and write it to ``report`` as well; 0 when every bar is met."""
    sys.stdout.write(text + "\n")
    if report is not None:
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(text, encoding="utf-8")
    return 0 if all(each.met for each in judged) else 1
