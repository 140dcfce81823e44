"""``python -m loadtest.chaos.room``: a game loop at 60 Hz that publishes frames and must never be held up.

What is counted is what the library costs it: the time it was ready and waited for a processor is taken off, where the
system tells (Linux). A virtual machine that stands still is told by nothing, but a thread that never went to sleep in a
call was held up in it for no longer than it worked. What interrupts of the network and the disk take from a thread
counts as its work; so plain arithmetic beside the calls, twice as long, is measured in the same way, to tell how much.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import sys
import time
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from loadtest.chaos.histories import History
from loadtest.chaos.joining import joined
from loadtest.chaos.options import process_options
from loadtest.chaos.pulse import Pulse
from services.process import run_process

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from broker import Broker

_TICK: Final = 1 / 60
_FRAMES: Final = 10
_FRAME: Final = b"x" * 200
_OFTEN: Final = 0.999
_STEP: Final = 0.000_25
_STEPS: Final = 1000
"""What a loop is late by is counted in steps of so many seconds, up to a quarter of one: a day takes no more room."""
_LONG: Final = 0.001
"""Seconds of a call that are worth asking what they were spent on."""
_SUMMANDS: Final = range(4_000)
_SCHEDULED: Final = Path("/proc/thread-self/schedstat")


class Processor:
    """What the system tells of this thread; seconds."""

    def __init__(self) -> None:
        try:
            self._file: int | None = os.open(_SCHEDULED, os.O_RDONLY)
        except OSError:
            self._file = None

    def waited(self) -> float:
        """For how long it has been ready and waiting for a processor; 0 where the system does not tell."""
        return 0.0 if self._file is None else int(os.pread(self._file, 64, 0).split()[1]) / 1e9

    @staticmethod
    def worked() -> float:
        """How long it has had one."""
        return time.thread_time()

    @staticmethod
    def slept() -> int:
        """How often it has gone to sleep by itself; on a system that does not tell, always more often than before."""
        if not hasattr(resource, "RUSAGE_THREAD"):
            return time.perf_counter_ns()
        return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


class Call(NamedTuple):
    """What is known at the beginning of one."""

    at: float
    waited: float
    worked: float
    slept: int

    @classmethod
    def begins(cls, processor: Processor) -> Call:
        """Now."""
        return cls(time.perf_counter(), processor.waited(), processor.worked(), processor.slept())

    def cost(self, took: float, processor: Processor) -> float:
        """Of its ``took`` seconds, those in which the caller was held up by it."""
        if processor.slept() == self.slept:
            return min(took, processor.worked() - self.worked)
        return took - (processor.waited() - self.waited)


class Longest:
    """The longest of many calls; seconds.

    Attributes:
        cost: see ``Call``.
        wall: by the clock on the wall.
    """

    def __init__(self, processor: Processor) -> None:
        self.cost = 0.0
        self.wall = 0.0
        self._processor = processor

    def of(self, call: Callable[[], object]) -> None:
        """Make one more."""
        begun = Call.begins(self._processor)
        call()
        took = time.perf_counter() - begun.at
        self.wall = max(self.wall, took)
        if took > _LONG:
            took = begun.cost(took, self._processor)
        self.cost = max(self.cost, took)


def arithmetic() -> int:
    """What nothing of ours can hold up; some 50 us."""
    return sum(_SUMMANDS)


class Lateness:
    """How late turns were, counted; seconds."""

    def __init__(self) -> None:
        self._counts = [0] * (_STEPS + 1)
        self.turns = 0
        self.longest = 0.0

    def add(self, late: float) -> None:
        """One turn more."""
        self.turns += 1
        self.longest = max(self.longest, late)
        self._counts[min(_STEPS, int(late / _STEP))] += 1

    def often(self, share: float) -> float:
        """What so many of them were not later than, to a step."""
        left = self.turns * (1 - share)
        for step in range(_STEPS, 0, -1):
            left -= self._counts[step]
            if left < 0:
                return self.longest if step == _STEPS else min(self.longest, (step + 1) * _STEP)
        return min(self.longest, _STEP)


class Loop:
    """The loop, and what held it up; seconds."""

    def __init__(self, broker: Broker, processor: Processor) -> None:
        self._broker = broker
        self._processor = processor
        self._late = Lateness()
        self._latest = 0.0
        self._calls = Longest(processor)
        self._arithmetic = Longest(processor)

    def counts(self) -> dict[str, float]:
        """So far.

        ``call_max``, and ``call_wall`` by the clock on the wall; ``plain_max``: of plain arithmetic; ``stall``: what
        999 turns in 1,000 were not later than, with ``stall_max``; ``late_max``: the latest, the wait for a processor
        included; ``turns``; ``dropped`` frames.
        """
        return {
            "call_max": self._calls.cost,
            "call_wall": self._calls.wall,
            "plain_max": self._arithmetic.cost,
            "stall": self._late.often(_OFTEN),
            "stall_max": self._late.longest,
            "late_max": self._latest,
            "turns": float(self._late.turns),
            "dropped": float(self._broker.stats.dropped_outbound),
        }

    async def run(self, stop: asyncio.Event) -> None:
        """Until it is told to stop."""
        clock = asyncio.get_running_loop().time
        due = clock()
        while not stop.is_set():
            due += _TICK
            waited = self._processor.waited()
            await asyncio.sleep(max(0.0, due - clock()))
            late = clock() - due
            now_waited = self._processor.waited()
            self._latest = max(self._latest, late)
            self._late.add(max(0.0, late - (now_waited - waited)))
            due = max(due, clock() - _TICK)  # turns that were missed are not made up for
            for number in range(_FRAMES):
                self._calls.of(partial(self._broker.publish_nowait, f"chaos.frame.{number}", _FRAME))
                self._arithmetic.of(arithmetic)


async def _serve(options: argparse.Namespace, stop: asyncio.Event) -> None:
    with History(options.directory, options.name, pulse=True) as pulse:
        async with aclosing(await joined(options.url, options.name)) as broker:
            loop = Loop(broker, Processor())
            # As a game server does: what a process begins with is not looked through again in the middle of a turn.
            gc.collect()
            gc.freeze()
            print(f"{options.name} ready", flush=True)
            async with Pulse(broker, pulse, loop.counts):
                await loop.run(stop)


def main() -> int:
    """Run the process; its exit code."""
    options = process_options(__doc__)
    return run_process(lambda stop: _serve(options, stop), name="chaos-room", lifeline=options.lifeline)


if __name__ == "__main__":
    sys.exit(main())
