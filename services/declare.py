"""``python -m services.declare``: makes the streams and consumers that services with ``--ensure bind`` expect."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from broker import StreamBroker
from services.connection import connection
from services.events import ALL_CONSUMERS, ALL_STREAMS, REPLICAS
from services.process import add_process_options, run_process

if TYPE_CHECKING:
    import asyncio


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m services.declare", description=__doc__)
    add_process_options(parser)
    parser.add_argument(
        "--ack-wait",
        type=float,
        default=None,
        metavar="SECONDS",
        help="until a dead worker's messages go to others, the same as the workers' own --ack-wait",
    )
    options = parser.parse_args()
    if options.ensure == "bind":
        parser.error("--ensure bind makes nothing: this is where things are made")
    return options


async def _serve(options: argparse.Namespace, _: asyncio.Event) -> None:
    async with StreamBroker.connect(**connection(options), name="declare") as broker:
        await broker.declare(*ALL_STREAMS, ensure=options.ensure)
        await broker.dead_letters.declare(replicas=REPLICAS)
        for consumer in ALL_CONSUMERS:
            asked = consumer if options.ack_wait is None else replace(consumer, ack_wait=options.ack_wait)
            await broker.consumers.ensure(asked, options.ensure)
    print(f"declared: {len(ALL_STREAMS) + 1} streams, {len(ALL_CONSUMERS)} consumers", flush=True)


def main() -> int:
    """Run the process; its exit code."""
    options = _options()
    return run_process(lambda stop: _serve(options, stop), name="declare", lifeline=options.lifeline)


if __name__ == "__main__":
    sys.exit(main())
