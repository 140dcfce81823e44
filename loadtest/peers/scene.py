"""What every peer's workload is given: the sizes, the other ends, the clock and the checks."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import secrets
import time
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final

import uvloop

from loadtest.bench_stream import BenchStream
from loadtest.counterpart import Counterpart

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping

    Workload = Callable[["Scene"], Awaitable[None]]

BODY_SIZE: Final = 128
IN_FLIGHT: Final = 64
WINDOW: Final = 256
MAX_ACK_PENDING: Final = 1000
LIMIT: Final = 40.0
"""Seconds that what is measured may take; beyond it the run is void."""


class Scene:
    """One run.

    Attributes:
        url: of the server.
        count: messages.
        body: of each.
        token: makes the subject, the stream and the ids of this run its own.
        seconds: on the wall clock, as ``measured``; ``cpu_seconds`` of this process meanwhile.
        problems: why the run is void.
    """

    def __init__(self, url: str, count: int) -> None:
        self.url = url
        self.count = count
        self.body = b"x" * BODY_SIZE
        self.token = secrets.token_hex(6)
        self.subject = f"bench.{self.token}"
        self.seconds = 0.0
        self.cpu_seconds = 0.0
        self.problems: list[str] = []

    @contextmanager
    def counter(self) -> Iterator[None]:
        """A raw subscriber that must have received everything in the end."""
        with self._counterpart("count") as counter:
            yield
            self.expect("received", self.count, counter.counted())

    @contextmanager
    def flood(self) -> Iterator[Counterpart]:
        """A raw publisher that floods when told to ``go``."""
        with self._counterpart("flood") as flood:
            yield flood

    @contextmanager
    def echo(self) -> Iterator[None]:
        """A raw responder."""
        with self._counterpart("echo"):
            yield

    @contextmanager
    def stream(self, *, filled: bool = False) -> Iterator[BenchStream]:
        """A fresh stream, empty or holding ``count`` messages; in the end it must hold ``count``."""
        with BenchStream(self.url, name=f"BENCH_{self.token}", subject=self.subject) as stream:
            if filled:
                stream.fill(self.count, self.body)
            yield stream
            self.expect("stored", self.count, stream.stored())

    @contextmanager
    def measured(self) -> Iterator[None]:
        """What counts."""
        began, cpu = time.perf_counter(), time.process_time()
        yield
        self.seconds = time.perf_counter() - began
        self.cpu_seconds = time.process_time() - cpu

    def expect(self, what: str, wanted: int, got: int) -> None:
        """Void the run when it did not do what it says it did."""
        if wanted != got:
            self.problems.append(f"{what} {got:,} of {wanted:,}" if wanted else f"{what} {got:,}")

    def expect_settled(self, stream: BenchStream, consumer: str, handled: int) -> None:
        """Everything was handed out once, handled and acked."""
        told = stream.consumer(consumer)
        self.expect("handled", self.count, handled)
        self.expect("handed out", self.count, told["delivered"]["consumer_seq"])
        self.expect("acked up to", self.count, told["ack_floor"]["stream_seq"])
        self.expect("unacked", 0, told["num_ack_pending"])
        self.expect("waiting", 0, told["num_pending"])

    def _counterpart(self, role: str) -> Counterpart:
        return Counterpart(role, url=self.url, subject=self.subject, count=self.count, size=len(self.body))


class Arrivals:
    """Counts what a handler is given; ``everything()`` waits for the last one."""

    def __init__(self, scene: Scene) -> None:
        self.count = 0
        self._scene = scene
        self._last = asyncio.Event()

    def add(self) -> None:
        """One more."""
        self.count += 1
        if self.count == self._scene.count:
            self._last.set()

    async def everything(self) -> None:
        """Until the last one is there, or time is up (which voids the run)."""
        try:
            async with asyncio.timeout(LIMIT):
                await self._last.wait()
        except TimeoutError:
            self._scene.expect("arrived", self._scene.count, self.count)


@asynccontextmanager
async def in_time() -> AsyncIterator[None]:
    """Fails what takes too long."""
    async with asyncio.timeout(LIMIT):
        yield


def main(peer: str, workloads: Mapping[str, Workload]) -> None:
    """Run one workload on uvloop and print one line of JSON."""
    parser = argparse.ArgumentParser(prog=f"python -m loadtest.peers.{peer}")
    parser.add_argument("workload", choices=list(workloads))
    parser.add_argument("--url", required=True)
    parser.add_argument("--count", type=int, required=True)
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    scene = Scene(given.url, given.count)
    uvloop.run(_run(workloads[given.workload], scene))
    told = {
        "peer": peer,
        "workload": given.workload,
        "count": scene.count,
        "seconds": scene.seconds,
        "cpu_seconds": scene.cpu_seconds,
        "problems": scene.problems,
    }
    print(json.dumps(told), flush=True)


async def _run(workload: Workload, scene: Scene) -> None:
    await workload(scene)
