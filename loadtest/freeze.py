"""``python -m loadtest.freeze``: a game loop publishes while SIGSTOP holds its server. What does the loop feel?"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Final

import uvloop

from broker import Broker, BrokerError, Status
from broker.server import NatsServer
from loadtest.machine import Machine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker import Message
    from broker.contracts.options import LinkChoice

_SUBJECT: Final = "battle.42.state"
_STATM: Final = Path("/proc/self/statm")
_SAMPLES: Final = 30
"""Ticks between two looks at the memory."""
_RESUMES: Final = 30.0
"""Seconds after which it is said that traffic did not resume."""
_QUIET: Final = 0.5
"""Seconds without a message after which no more is on its way."""
_LINKS: Final[tuple[LinkChoice, ...]] = ("wire", "nats-py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Felt:
    """What the loop felt, and what became of its frames.

    Attributes:
        worst_call: seconds that the slowest ``publish_nowait`` took.
        lags: seconds that each tick began late, sorted.
        grown: bytes by which the resident memory grew at most; 0 where the system does not tell.
        published: frames.
        dropped: of those, counted as dropped unsent.
        received: of those, at the other end.
        left_after: seconds from SIGSTOP to the status ``reconnecting``; ``None`` if the server was not left.
        resumed_after: seconds from SIGCONT until a frame published after it arrived; infinite if none did.
    """

    worst_call: float
    lags: Sequence[float]
    grown: int
    published: int
    dropped: int
    received: int
    left_after: float | None
    resumed_after: float

    @property
    def unknown(self) -> int:
        """Frames that were in the sockets when the server was left, or passed while the audience was not back yet."""
        return self.published - self.dropped - self.received

    def lag(self, share: float) -> float:
        """The lag, in seconds, that this share of the ticks did not exceed."""
        return self.lags[max(0, math.ceil(share * len(self.lags)) - 1)]


class Loop:
    """A game loop: one frame per tick, at times fixed beforehand."""

    def __init__(self, room: Broker, *, hz: float, size: int) -> None:
        self._room = room
        self._every = 1 / hz
        self._size = size
        self._born = _resident()
        self.grown = 0
        self.worst_call = 0.0
        self.lags: list[float] = []
        self.published = 0
        self.left_at: float | None = None

    async def run(self) -> None:
        """Tick until cancelled."""
        due = perf_counter()
        while True:
            due += self._every
            await asyncio.sleep(max(0.0, due - perf_counter()))
            self._tick(perf_counter() - due)

    def _tick(self, lag: float) -> None:
        frame = b"%*d" % (self._size, self.published)
        began = perf_counter()
        self._room.publish_nowait(_SUBJECT, frame)
        self.worst_call = max(self.worst_call, perf_counter() - began)
        self.published += 1
        self.lags.append(max(0.0, lag))
        if self.left_at is None and self._room.status is Status.RECONNECTING:
            self.left_at = began
        if self.published % _SAMPLES == 0:
            self.grown = max(self.grown, _resident() - self._born)


class Audience:
    """Counts the frames that arrive, and notices the first one from after the thaw."""

    def __init__(self) -> None:
        self.received = 0
        self.resumed_at = math.inf
        self._first_wanted = math.inf
        self._resumed = asyncio.Event()

    def hear(self, message: Message) -> None:
        """One frame."""
        self.received += 1
        if self.resumed_at == math.inf and int(message.data) >= self._first_wanted:
            self.resumed_at = perf_counter()
            self._resumed.set()

    async def resumed(self, first: int) -> None:
        """Wait for a frame with this number or a later one, for as long as it may reasonably take."""
        self._first_wanted = first
        with suppress(TimeoutError):
            async with asyncio.timeout(_RESUMES):
                await self._resumed.wait()

    async def all_heard(self) -> None:
        """Wait until nothing arrives any more."""
        before = -1
        while before != self.received:
            before = self.received
            await asyncio.sleep(_QUIET)


async def measure(
    server: NatsServer,
    *,
    link: LinkChoice,
    seconds: float,
    hz: float = 60,
    size: int = 10_000,
    outbound_limit: int = 8 << 20,
) -> Felt:
    """Publish ``size`` bytes ``hz`` times a second, from a second before ``server`` freezes for ``seconds`` on."""
    async with (
        Broker.connect(server.url, link=link, outbound_limit=outbound_limit) as room,
        Broker.connect(server.url, link=link) as player,
    ):
        audience, loop = Audience(), Loop(room, hz=hz, size=size)
        await player.subscribe(_SUBJECT, audience.hear)
        running = asyncio.create_task(loop.run())
        await asyncio.sleep(1)
        frozen_at = perf_counter()
        await server.freeze()
        try:
            await asyncio.sleep(seconds)
        finally:
            await server.thaw()
        thawed_at = perf_counter()
        await audience.resumed(loop.published)
        running.cancel()
        await asyncio.wait({running})
        if running.done() and not running.cancelled():
            running.result()
        await _flushed(room)
        await audience.all_heard()
        return Felt(
            worst_call=loop.worst_call,
            lags=sorted(loop.lags),
            grown=loop.grown,
            published=loop.published,
            dropped=room.stats.dropped_outbound,
            received=audience.received,
            left_after=None if loop.left_at is None else loop.left_at - frozen_at,
            resumed_after=audience.resumed_at - thawed_at,
        )


async def _flushed(room: Broker) -> None:
    try:
        await room.flush(timeout=_RESUMES)
    except BrokerError as exc:
        print(f"flush: {exc}", file=sys.stderr)


def _resident() -> int:
    try:
        return int(_STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def told(felt: Felt) -> str:
    """The figures, one per line."""
    left = "not left" if felt.left_after is None else f"left after {felt.left_after:.1f} s"
    lags = ", ".join(f"{name} {felt.lag(share) * 1e3:.2f}" for name, share in (("p50", 0.5), ("p99", 0.99)))
    frames = f"{felt.published} published, {felt.dropped} dropped and counted, {felt.received} received"
    return "\n".join(
        [
            f"worst publish_nowait   {felt.worst_call * 1e3:.3f} ms",
            f"loop lag               {lags}, p99.9 {felt.lag(0.999) * 1e3:.2f}, max {felt.lags[-1] * 1e3:.2f} ms",
            f"memory grew            {felt.grown / (1 << 20):.1f} MiB at most",
            f"frames                 {frames}",
            f"unknown                {felt.unknown}, in the sockets or sent while the audience was away",
            f"the server was         {left}",
            f"traffic resumed        {felt.resumed_after:.2f} s after SIGCONT",
        ]
    )


async def _main(given: argparse.Namespace) -> None:
    machine = Machine.here()
    async with NatsServer(sync_interval=None) as server:
        machine = replace(machine, nats_server=server.version)
        print(
            f"{machine.cpu}, {machine.cores} cores, load {machine.load}, Python {machine.python}, {machine.nats_server}"
        )
        for link in given.link or _LINKS:
            felt = await measure(
                server, link=link, seconds=given.seconds, hz=given.hz, size=given.size, outbound_limit=given.limit
            )
            print(
                f"\n{link}: frozen for {given.seconds:g} s at {given.hz:g} Hz x {given.size} B\n{told(felt)}",
                flush=True,
            )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtest.freeze", description=__doc__)
    parser.add_argument("--link", action="append", choices=_LINKS, help="only this one; default both")
    parser.add_argument("--seconds", type=float, default=10.0, help="from SIGSTOP to SIGCONT (default %(default)s)")
    parser.add_argument("--hz", type=float, default=60.0, help="ticks per second (default %(default)s)")
    parser.add_argument("--size", type=int, default=10_000, help="bytes of a frame (default %(default)s)")
    parser.add_argument("--limit", type=int, default=1 << 20, help="outbound_limit in bytes (default %(default)s)")
    return parser


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_main(_parser().parse_args()))
