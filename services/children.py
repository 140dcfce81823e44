"""Services started by another process, with a lifeline, so that none outlives it, however it ends."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_POLL: Final = 0.02
_LAST_LINES: Final = 3
_ROOT: Final = Path(__file__).resolve().parents[1]


class ChildFailed(Exception):
    """A process ended that should not have; the message carries the end of its log."""


@dataclass(slots=True)
class Child:
    """One process. Its output goes to ``log``."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def signal(self, number: signal.Signals) -> bool:
        """Send it a signal; whether it was there to get it."""
        if not self.running:
            return False
        self.process.send_signal(number)
        return True

    async def ready(self, timeout: float) -> None:
        """Return when it says that it is ready.

        Raises:
            ChildFailed: it ended, or said nothing in time.
        """
        deadline = asyncio.get_running_loop().time() + timeout
        while b" ready" not in self.log.read_bytes():
            if not self.running:
                raise ChildFailed(self.obituary())
            if asyncio.get_running_loop().time() > deadline:
                raise ChildFailed(f"{self.name} was not ready in {timeout:g} s")
            await asyncio.sleep(_POLL)

    async def ended(self, timeout: float) -> int | None:
        """Its exit code, ``None`` when it still runs after ``timeout`` seconds."""
        deadline = asyncio.get_running_loop().time() + timeout
        while self.running:
            if asyncio.get_running_loop().time() > deadline:
                return None
            await asyncio.sleep(_POLL)
        return self.process.returncode

    def obituary(self) -> str:
        """How it ended, with its last words."""
        lines = self.log.read_text("utf-8", "replace").strip().splitlines()[-_LAST_LINES:]
        return f"{self.name} ended with {self.process.returncode}: " + (" | ".join(lines) or "it said nothing")


class Children:
    """Processes on one server. Leaving the ``with`` block kills what still runs."""

    def __init__(self, directory: Path, url: str) -> None:
        self._directory = directory
        self._url = url
        self._all: list[Child] = []

    def start(self, name: str, module: str, *arguments: str, env: Mapping[str, str] | None = None) -> Child:
        """Start ``python -m module`` with the server's URL and a lifeline; ``env`` stands instead of our variables."""
        log = self._directory / f"{name}.log"
        command = [sys.executable, "-m", module, "--url", self._url, "--lifeline", *arguments]
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603 - this interpreter and this package's modules
                command,
                # The only other end of this pipe is here: it closes when this process ends, and the child with it.
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=_ROOT,
                env=env,
                # A group of its own, so that Ctrl-C reaches the starter alone; in the starter's session, so that the
                # system wakes a stopped child when the starter is gone.
                process_group=0,
            )
        child = Child(name, process, log)
        self._all.append(child)
        return child

    async def ready(self, children: Iterable[Child], timeout: float) -> None:
        """Return when all of them say that they are ready."""
        await asyncio.gather(*(child.ready(timeout) for child in children))

    async def drain(self, children: Iterable[Child], timeout: float) -> list[str]:
        """SIGTERM them and wait; what is wrong with how they ended, one that ended before included."""
        asked, wrong = [], []
        for child in children:
            if child.signal(signal.SIGTERM):
                asked.append(child)
            else:
                wrong.append(child.obituary())
        codes = await asyncio.gather(*(child.ended(timeout) for child in asked))
        for child, code in zip(asked, codes, strict=True):
            if code is None:
                wrong.append(f"{child.name} had not drained {timeout:g} s after SIGTERM")
            elif code:
                wrong.append(child.obituary())
        return wrong

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._all:
            with suppress(ProcessLookupError):
                child.process.kill()
        for child in self._all:
            child.process.wait()
            if child.process.stdin is not None:
                child.process.stdin.close()
