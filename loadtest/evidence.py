"""Where a whole run is kept: JSON, tables and plot beside each other, the summary on the page that explains them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from loadtest import plot, report

if TYPE_CHECKING:
    from pathlib import Path

    from loadtest.report import Outcome

BEGIN: Final = "<!-- written by make bench: begin -->"
END: Final = "<!-- written by make bench: end -->"
_PAGE: Final = "performance.md"
_ROOM: Final = "evidence"


def write_json(outcome: Outcome, path: Path) -> None:
    """Everything, for a program to read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report.as_json(outcome), indent=1) + "\n", encoding="utf-8")


def write_beside(outcome: Outcome, path: Path) -> list[Path]:
    """The JSON file, and of the same name the tables (``.md``) and the plot (``.svg``)."""
    write_json(outcome, path)
    tables, drawing = path.with_suffix(".md"), path.with_suffix(".svg")
    tables.write_text(f"# make bench\n\n{report.markdown(outcome)}\n", encoding="utf-8")
    drawing.write_text(plot.svg(outcome), encoding="utf-8")
    return [path, tables, drawing]


def publish(outcome: Outcome, docs: Path) -> list[Path]:
    """Refresh the documentation: the evidence, and the part of the page between the two marks.

    Raises:
        ValueError: the page lacks a mark; nothing was written.
    """
    page = docs / _PAGE
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{page} needs the lines {BEGIN!r} and {END!r}")
    written = write_beside(outcome, docs / _ROOM / "bench.json")
    shown = [
        report.summary(outcome),
        f"![Medians and spreads of every client]({_ROOM}/bench.svg)",
        f"Every figure: [tables]({_ROOM}/bench.md), [all runs]({_ROOM}/bench.json).",
    ]
    page.write_text("\n\n".join([before + begin, *shown, end + after]), encoding="utf-8")
    return [*written, page]
