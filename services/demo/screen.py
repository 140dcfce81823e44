"""What the demo shows: a live view on a terminal when rich is there, else a plain line once a second."""

from __future__ import annotations

import sys
from abc import abstractmethod
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.demo.progress import Snapshot


class Screen(Protocol):
    """Where a run is shown."""

    @abstractmethod
    def say(self, text: str) -> None:
        """Something happened."""

    @abstractmethod
    def show(self, seconds: float, snapshot: Snapshot) -> None:
        """How it is going, ``seconds`` after the start of play; called once a second."""

    @abstractmethod
    def report(self, rows: Sequence[tuple[str, str]]) -> None:
        """The final table. Nothing is shown live after it."""

    @abstractmethod
    def close(self) -> None:
        """Leave the terminal as it was. Idempotent."""


class PlainScreen(Screen):
    """Lines on standard output."""

    def say(self, text: str) -> None:
        """See ``Screen``."""
        print(text, flush=True)

    def show(self, seconds: float, snapshot: Snapshot) -> None:
        """See ``Screen``."""
        print(f"{seconds:4.0f} s  {snapshot.line()}", flush=True)

    def report(self, rows: Sequence[tuple[str, str]]) -> None:
        """See ``Screen``."""
        width = max(len(name) for name, _ in rows)
        print()
        for name, value in rows:
            print(f"  {name:<{width}}  {value}")
        print(flush=True)

    def close(self) -> None:
        """See ``Screen``."""


def open_screen() -> Screen:
    """The richest screen this standard output can show."""
    if sys.stdout.isatty():
        try:
            from services.demo.rich_screen import RichScreen  # noqa: PLC0415 - rich is an extra
        except ImportError:
            pass
        else:
            return RichScreen()
    return PlainScreen()
