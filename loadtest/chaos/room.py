"""``python -m loadtest.chaos.room``: a game loop at 60 Hz that publishes frames and must never be held up.

What is counted is what the library costs it: the time it was ready and waited for a processor is taken off, where the
system tells (Linux). A virtual machine that stands still is told by nothing, but a thread that never went to sleep in a
call was held up in it for no longer than it worked. What interrupts of the network and the disk take from a thread
counts as its work; so plain arithmetic beside the calls, twice as long, is measured in the same way, to tell how much.
How late the loop would have been anyway is told by the one in ``idle``.
"""

from __future__ import annotations

import sys
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Final

from loadtest.chaos.calls import Longest, Processor, arithmetic
from loadtest.chaos.histories import History
from loadtest.chaos.joining import joined
from loadtest.chaos.options import process_options
from loadtest.chaos.pace import FRAMES, Pace
from loadtest.chaos.pulse import Pulse
from services.process import run_process

if TYPE_CHECKING:
    import argparse
    import asyncio

    from broker import Broker

_FRAME: Final = b"x" * 200


class Loop:
    """The loop, and what held it up; seconds."""

    def __init__(self, broker: Broker, processor: Processor) -> None:
        self._broker = broker
        self._pace = Pace(processor)
        self._calls = Longest(processor)
        self._arithmetic = Longest(processor)

    def counts(self) -> dict[str, float]:
        """So far: those of its pace, and of what it does.

        ``call_max``, ``call_wall`` by the clock on the wall; ``plain_max``: of plain arithmetic; ``dropped`` frames.
        """
        return {
            "call_max": self._calls.cost,
            "call_wall": self._calls.wall,
            "plain_max": self._arithmetic.cost,
            **self._pace.counts(),
            "dropped": float(self._broker.stats.dropped_outbound),
        }

    async def run(self, stop: asyncio.Event) -> None:
        """Until it is told to stop."""
        await self._pace.keep(self._turn, stop)

    def _turn(self) -> None:
        for number in range(FRAMES):
            self._calls.of(partial(self._broker.publish_nowait, f"chaos.frame.{number}", _FRAME))
            self._arithmetic.of(arithmetic)


async def _serve(options: argparse.Namespace, stop: asyncio.Event) -> None:
    with History(options.directory, options.name, pulse=True) as pulse:
        async with aclosing(await joined(options.url, options.name)) as broker:
            loop = Loop(broker, Processor())
            print(f"{options.name} ready", flush=True)
            async with Pulse(broker, pulse, loop.counts):
                await loop.run(stop)


def main() -> int:
    """Run the process; its exit code."""
    options = process_options(__doc__)
    return run_process(lambda stop: _serve(options, stop), name="chaos-room", lifeline=options.lifeline)


if __name__ == "__main__":
    sys.exit(main())
