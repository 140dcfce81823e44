"""``python -m loadtest.chaos.room``: a game loop at 60 Hz that publishes frames and must never be held up."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING, Final

from broker import StreamBroker
from loadtest.chaos.histories import History
from loadtest.chaos.options import process_options
from loadtest.chaos.pulse import Pulse
from services.process import run_process

if TYPE_CHECKING:
    import argparse

    from broker import Broker

_TICK: Final = 1 / 60
_FRAMES: Final = 10
_FRAME: Final = b"x" * 200
_OFTEN: Final = 0.999
_KEPT: Final = 60 * 60 * 20
"""Turns that are remembered: twenty minutes."""


class Loop:
    """The loop, and what held it up; seconds."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._late: list[float] = []
        self._longest_call = 0.0

    def counts(self) -> dict[str, float]:
        """So far: ``call_max``, ``stall`` (of 999 turns in 1,000), ``stall_max``, ``turns``, ``dropped`` frames."""
        late = sorted(self._late) or [0.0]
        return {
            "call_max": self._longest_call,
            "stall": late[int((len(late) - 1) * _OFTEN)],
            "stall_max": late[-1],
            "turns": float(len(self._late)),
            "dropped": float(self._broker.stats.dropped_outbound),
        }

    async def run(self, stop: asyncio.Event) -> None:
        """Until it is told to stop."""
        clock = asyncio.get_running_loop().time
        due = clock()
        while not stop.is_set():
            due += _TICK
            await asyncio.sleep(max(0.0, due - clock()))
            if len(self._late) < _KEPT:
                self._late.append(max(0.0, clock() - due))
            due = max(due, clock() - _TICK)  # turns that were missed are not made up for
            for number in range(_FRAMES):
                self._publish(f"chaos.frame.{number}")

    def _publish(self, subject: str) -> None:
        began = time.perf_counter()
        self._broker.publish_nowait(subject, _FRAME)
        self._longest_call = max(self._longest_call, time.perf_counter() - began)


async def _serve(options: argparse.Namespace, stop: asyncio.Event) -> None:
    with History(options.directory, options.name, pulse=True) as pulse:
        async with StreamBroker.connect(options.url, name=options.name) as broker:
            loop = Loop(broker)
            print(f"{options.name} ready", flush=True)
            async with Pulse(broker, pulse, loop.counts):
                await loop.run(stop)


def main() -> int:
    """Run the process; its exit code."""
    options = process_options(__doc__)
    return run_process(lambda stop: _serve(options, stop), name="chaos-room", lifeline=options.lifeline)


if __name__ == "__main__":
    sys.exit(main())
