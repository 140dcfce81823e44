"""What every peer's workload is given: the sizes, the other ends, the clock and the checks."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import secrets
import sys
import time
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final

import uvloop

from loadtest.bench_stream import BenchStream
from loadtest.counterpart import READY, Counterpart, OtherProcess
from loadtest.latency import LAG_LIMIT_MS, Latency, Schedule, since_due
from loadtest.metronome import Metronome

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence

    Workload = Callable[["Scene"], Awaitable[None]]

PACE: Final = "pace"
"""The variant that is the sending process of ``latency``."""
MAX_ACK_PENDING: Final = 1000
LIMIT: Final = 40.0
"""Seconds that what is measured may take; beyond it the run is void."""
QUIET: Final = 3.0
"""Seconds without a single arrival after which the rest counts as lost."""


class Scene:
    """One run.

    Attributes:
        url: of the server.
        count: messages.
        depth: how many requests or appends are in flight at once.
        room_count: rooms of an open loop.
        flavour: how the peer is to be set up, where it has a choice.
        body: of each message.
        token: makes the subject, the stream and the ids of this run its own.
        seconds: on the wall clock, as ``measured``; ``cpu_seconds`` of this process meanwhile.
        latency: of an open loop.
        problems: why the run is void.
    """

    def __init__(self, given: argparse.Namespace) -> None:
        self.url: str = given.url
        self.count: int = given.count
        self.depth: int = given.depth
        self.flavour: str = given.flavour
        self.body = b"x" * given.size
        self.token = secrets.token_hex(6)
        self.subject: str = given.subject or f"bench.{self.token}"
        self.seconds = 0.0
        self.cpu_seconds = 0.0
        self.latency: Latency | None = None
        self.problems: list[str] = []
        self.room_count: int = given.rooms

    @property
    def ids(self) -> Iterator[str]:
        """An id for each message."""
        return (f"{self.token}-{index}" for index in range(self.count))

    @property
    def rooms(self) -> str:
        """The subject of every room."""
        return f"{self.subject}.*"

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
    def sender(self, peer: str) -> Iterator[OtherProcess]:
        """The peer's own ``pace``, in a process of its own: sends when told to ``go``, then tells how late it was."""
        command = [sys.executable, "-m", f"loadtest.peers.{peer}", PACE, "--url", self.url, "--subject", self.subject]
        command += ["--count", str(self.count), "--size", str(len(self.body)), "--rooms", str(self.room_count)]
        with OtherProcess([*command, "--flavour", self.flavour]) as sender:
            yield sender

    async def due(self) -> AsyncIterator[tuple[str, bytes]]:
        """In ``pace``: subject and body of each message when its time has come, once told to go."""
        schedule = self.schedule()
        with Metronome() as metronome:
            print(READY, flush=True)
            await asyncio.to_thread(sys.stdin.readline)
            async for each in schedule.due(metronome):
                yield each
        self.late(schedule.lag_ms)

    def schedule(self) -> Schedule:
        """Of the open loop."""
        return Schedule(self.subject, rooms=self.room_count, count=self.count, size=len(self.body))

    def late(self, lag_ms: float) -> None:
        """How late the sender was; above the limit nothing but the sender was measured."""
        self.latency = Latency.of([], lag_ms)
        if lag_ms > LAG_LIMIT_MS:
            self.problems.append(f"the sender lagged {lag_ms:.1f} ms at p99, more than {LAG_LIMIT_MS:g}")

    def saw(self, nanoseconds: Sequence[int], sender: Mapping[str, Any]) -> None:
        """What the receiver measured and what the sender's process told of itself."""
        self.problems += sender.get("problems", ["the sender died"])
        self.latency = Latency.of(nanoseconds, sender["latency"]["lag_ms"]) if sender else None

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

    def told(self) -> dict[str, Any]:
        """The result, for the process that started this one."""
        return {
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "latency": self.latency.as_json() if self.latency else None,
            "problems": self.problems,
        }

    def _counterpart(self, role: str) -> Counterpart:
        return Counterpart(role, url=self.url, subject=self.subject, count=self.count, size=len(self.body))


class Arrivals:
    """Counts what a handler is given; ``everything()`` waits for the last one."""

    def __init__(self, scene: Scene) -> None:
        self.count = 0
        self._scene = scene
        self._wanted = scene.count
        self._last = asyncio.Event()

    def add(self) -> None:
        """One more."""
        self.count += 1
        if self.count == self._wanted:
            self._last.set()

    async def everything(self) -> None:
        """Until the last one is there, or nothing comes any more (which voids the run)."""
        seen = -1
        while seen != self.count:
            seen = self.count
            try:
                async with asyncio.timeout(QUIET):
                    await self._last.wait()
            except TimeoutError:
                continue
            return
        self._scene.expect("arrived", self._wanted, self.count)


class OneWay(Arrivals):
    """Likewise for an open loop: notes how long each message took from when it was due."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self.took: list[int] = []

    def note(self, body: bytes) -> None:
        """One more."""
        self.took.append(since_due(body))
        self.add()

    async def measure(self, peer: str) -> None:
        """Have the peer's own sender send and wait for everything."""
        scene = self._scene
        with scene.sender(peer) as sender:
            with scene.measured():
                sender.go()
                await self.everything()
            scene.saw(self.took, await asyncio.to_thread(sender.told))


async def ask_all(scene: Scene, ask: Callable[[str, bytes], Awaitable[bytes]]) -> None:
    """``depth`` callers, each awaiting its reply before it asks again."""
    turns = iter(range(scene.count))
    answered = 0

    async def caller() -> None:
        nonlocal answered
        for _ in turns:
            reply = await ask(scene.subject, scene.body)
            answered += reply == scene.body

    with scene.measured():
        async with asyncio.TaskGroup() as group:
            for _ in range(scene.depth):
                group.create_task(caller())
    scene.expect("answered", scene.count, answered)


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
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--depth", type=int, default=1)
    parser.add_argument("--rooms", type=int, default=1)
    parser.add_argument("--subject", default="")
    parser.add_argument("--flavour", default="")
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    scene = Scene(given)
    uvloop.run(_run(workloads[given.workload], scene))
    print(json.dumps(scene.told()), flush=True)


async def _run(workload: Workload, scene: Scene) -> None:
    await workload(scene)
