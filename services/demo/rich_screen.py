"""The live view. The only file that knows rich."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.table import Table

from services.demo.progress import ms
from services.demo.screen import Screen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.demo.progress import Snapshot


class RichScreen(Screen):
    """A table that is redrawn in place, with events scrolling above it."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._live: Live | None = None

    def say(self, text: str) -> None:
        """See ``Screen``."""
        self._console.print(text, markup=False)

    def show(self, seconds: float, snapshot: Snapshot) -> None:
        """See ``Screen``."""
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        table = Table(box=None, show_header=False)
        table.add_column(style="dim")
        table.add_column(justify="right")
        for name, value in (
            ("playing", f"{seconds:.0f} s"),
            ("ticks run / skipped", f"{snapshot.rooms['run']:,} / {snapshot.rooms['skipped']}"),
            ("frames received / lost", f"{snapshot.seen['received']:,} / {snapshot.seen['lost']}"),
            ("hop p50 / p99", f"{ms(snapshot.hop['hop_p50'])} / {ms(snapshot.hop['hop_p99'])}"),
            ("commands", f"{snapshot.seen['commands']:,}"),
            ("battles ended / settled", f"{snapshot.ended} / {snapshot.settled}"),
            ("duplicates absorbed", str(snapshot.absorbed)),
            ("points counted", f"{snapshot.counted:,}"),
        ):
            table.add_row(name, value)
        self._live.update(table, refresh=True)

    def report(self, rows: Sequence[tuple[str, str]]) -> None:
        """See ``Screen``."""
        self.close()
        table = Table(show_header=False)
        table.add_column(style="dim")
        table.add_column()
        for name, value in rows:
            table.add_row(name, value)
        self._console.print(table)

    def close(self) -> None:
        """See ``Screen``."""
        if self._live is not None:
            self._live.stop()
            self._live = None
