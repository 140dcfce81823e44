"""One run of one peer: a process of its own, a time limit, and a result that says when it is void."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import loadtest
from loadtest.latency import Latency

if TYPE_CHECKING:
    from loadtest.workloads import Entrant, Workload

_ROOT: Final = Path(loadtest.__file__).parent.parent
_LAST_WORDS: Final = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What became of it.

    Attributes:
        workload: its name, with ``peer``, ``variant`` and ``flavour`` of the entrant.
        round: from 1; 0 is the warm-up.
        seconds: on the wall clock; ``cpu_seconds`` of the client's process.
        latency: of an open loop.
        void: why it does not count; empty when it does.
    """

    workload: str
    peer: str
    variant: str
    round: int
    count: int
    flavour: str = ""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    latency: Latency | None = None
    void: str = ""

    @property
    def identity(self) -> tuple[str, str, str]:
        """Of the entrant."""
        return self.peer, self.variant, self.flavour

    @property
    def figure(self) -> float:
        """What is compared: the median latency in microseconds where there is one, else messages per second."""
        return self.latency.p50 if self.latency else self.rate

    @property
    def rate(self) -> float:
        """Messages per second."""
        return self.count / self.seconds if self.seconds else 0.0


async def run_peer(
    entrant: Entrant,
    workload: Workload,
    *,
    url: str,
    count: int,
    turn: int,
    limit: float,
    python: str = sys.executable,
    module: str | None = None,
) -> Run:
    """Run it with that interpreter and wait for it; after ``limit`` seconds its process is killed."""
    process = await asyncio.create_subprocess_exec(
        python,
        "-m",
        module or f"loadtest.peers.{entrant.peer}",
        *_arguments(entrant, workload, url, count),
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
    run = Run(
        workload=workload.name,
        peer=entrant.peer,
        variant=entrant.variant,
        flavour=entrant.flavour,
        round=turn,
        count=count,
    )
    return _finished(run, process.returncode, out, err, f"no result in {limit:g} s" if late else "")


def _arguments(entrant: Entrant, workload: Workload, url: str, count: int) -> list[str]:
    given = {"url": url, "count": count, "size": workload.size, "depth": workload.depth, "flavour": entrant.flavour}
    given |= {"rooms": workload.rooms} if workload.rooms else {}
    return [entrant.variant, *(word for name, value in given.items() for word in (f"--{name}", str(value)))]


def _finished(run: Run, returncode: int | None, out: bytes, err: bytes, void: str) -> Run:
    """The run with its result, or why it is void."""
    said = err.decode("utf-8", "replace").strip().splitlines()
    last_words = said[-1][:_LAST_WORDS] if said else ""
    lines = out.decode("utf-8", "replace").splitlines()
    if void or returncode or not lines:
        return replace(run, void=_joined(void or f"exit code {returncode}", last_words))
    told = json.loads(lines[-1])
    problems = [*told["problems"], *([] if told["seconds"] else ["nothing was measured"])]
    return replace(
        run,
        seconds=told["seconds"],
        cpu_seconds=told["cpu_seconds"],
        latency=Latency(**told["latency"]) if told["latency"] else None,
        void=_joined(*problems, last_words) if problems else "",
    )


def _joined(*words: str) -> str:
    return "; ".join(word for word in words if word)
