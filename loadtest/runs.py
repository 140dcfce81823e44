"""One run of one peer: a process of its own, a time limit, and a result that says when it is void."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import loadtest

if TYPE_CHECKING:
    from loadtest.workloads import Entrant, Workload

_ROOT: Final = Path(loadtest.__file__).parent.parent
_LAST_WORDS: Final = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What became of it.

    Attributes:
        workload: its name, with ``peer`` and ``variant`` of the entrant.
        round: from 1; 0 is the warm-up.
        seconds: on the wall clock; ``cpu_seconds`` of the client's process.
        void: why it does not count; empty when it does.
    """

    workload: str
    peer: str
    variant: str
    round: int
    count: int
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    void: str = ""

    @property
    def rate(self) -> float:
        """Messages per second."""
        return self.count / self.seconds if self.seconds else 0.0


async def run_peer(
    entrant: Entrant, workload: Workload, *, url: str, count: int, turn: int, limit: float, module: str | None = None
) -> Run:
    """Run it and wait for it; after ``limit`` seconds its process is killed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module or f"loadtest.peers.{entrant.peer}",
        entrant.variant,
        "--url",
        url,
        "--count",
        str(count),
        cwd=_ROOT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err, late = b"", b"", False
    try:
        async with asyncio.timeout(limit):
            out, err = await process.communicate()
    except TimeoutError:
        late = True
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    seconds, cpu_seconds, void = _outcome(process.returncode, out, err, f"no result in {limit:g} s" if late else "")
    return Run(
        workload=workload.name,
        peer=entrant.peer,
        variant=entrant.variant,
        round=turn,
        count=count,
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        void=void,
    )


def _outcome(returncode: int | None, out: bytes, err: bytes, void: str) -> tuple[float, float, str]:
    """Wall seconds, processor seconds and why the run is void."""
    said = err.decode("utf-8", "replace").strip().splitlines()
    last_words = said[-1][:_LAST_WORDS] if said else ""
    lines = out.decode("utf-8", "replace").splitlines()
    if void or returncode or not lines:
        return 0.0, 0.0, _joined(void or f"exit code {returncode}", last_words)
    told = json.loads(lines[-1])
    problems = [*told["problems"], *([] if told["seconds"] else ["nothing was measured"])]
    return told["seconds"], told["cpu_seconds"], _joined(*problems, last_words) if problems else ""


def _joined(*words: str) -> str:
    return "; ".join(word for word in words if word)
