"""``python -m loadtest.chaos.idle``: the room's loop without a broker in it: how late any loop is on this machine, now.

It counts as much as the room does and works no more than it, with plain arithmetic where the room publishes. What a
virtual machine is kept from and what interrupts take cannot be taken off the room's lateness; here it shows as well.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from loadtest.chaos.calls import Longest, Processor, arithmetic, little
from loadtest.chaos.histories import History
from loadtest.chaos.options import process_options
from loadtest.chaos.pace import FRAMES, Pace
from loadtest.chaos.pulse import Pulse
from services.process import run_process

if TYPE_CHECKING:
    import argparse
    import asyncio


async def _serve(options: argparse.Namespace, stop: asyncio.Event) -> None:
    processor = Processor()
    pace, plain = Pace(processor), Longest(processor)

    def turn() -> None:
        for _ in range(FRAMES):
            plain.of(little)
            plain.of(arithmetic)

    with History(options.directory, options.name, pulse=True) as pulse:
        print(f"{options.name} ready", flush=True)
        async with Pulse(None, pulse, pace.counts):
            await pace.keep(turn, stop)


def main() -> int:
    """Run the process; its exit code."""
    options = process_options(__doc__)
    return run_process(lambda stop: _serve(options, stop), name="chaos-idle", lifeline=options.lifeline)


if __name__ == "__main__":
    sys.exit(main())
