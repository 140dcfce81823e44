"""How a process is told what to do, as a worker to die: a file that says it, looked for wherever it could happen."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Final

from loadtest.chaos.histories import Op

if TYPE_CHECKING:
    from pathlib import Path

    from loadtest.chaos.histories import History


FINISH: Final = "finish"
"""Not a point to die at: begin nothing new and see everything settled."""


def _file(directory: Path, process: str) -> Path:
    return directory / f"{process}.order"


def give(directory: Path, process: str, point: str) -> None:
    """Have that process die when it next reaches that point."""
    draft = directory / f"{process}.draft"
    draft.write_text(point, encoding="ascii")
    draft.replace(_file(directory, process))


def withdraw(directory: Path, process: str) -> None:
    """Let it live."""
    _file(directory, process).unlink(missing_ok=True)


class Orders:
    """The orders of one process. Threads may share it."""

    def __init__(self, directory: Path, process: str, pulse: History) -> None:
        self._file = _file(directory, process)
        self._pulse = pulse

    def pending(self) -> str:
        """The point at which it is to die; empty when it is not."""
        try:
            return self._file.read_text(encoding="ascii")
        except FileNotFoundError:
            return ""

    def reached(self, point: str) -> None:
        """It is there. Does not return if that is where it is to die."""
        if self.pending() == point:
            self._pulse.write(Op.DIE, told=point)
            os.kill(os.getpid(), signal.SIGKILL)
            signal.pause()  # the signal may take another thread first
