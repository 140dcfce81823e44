"""``python -m services.gateway``: a gateway for players whose clients speak NATS; SIGTERM sends what is in hand.

A gateway for other clients joins their connections to the same ``Gateway`` in its own process.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from broker import Broker
from services.connection import connection
from services.gateway.entrance import Entrance
from services.gateway.gateway import MOST_PLAYERS, Gateway
from services.history import History
from services.process import add_process_options, run_process

_OUTBOUND_LIMIT: Final = 512 << 10
"""A few ticks of commands and frames: older ones are worthless when the connection comes back."""


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m services.gateway", description=__doc__)
    add_process_options(parser)
    parser.add_argument("--name", default="gateway-1", help="unique among gateways (default %(default)s)")
    parser.add_argument("--tick-rate", type=float, default=30.0, help="messages per room and second, at most")
    parser.add_argument("--most-players", type=int, default=MOST_PLAYERS, help="default %(default)s")
    parser.add_argument("--stats", type=Path, default=None, metavar="FILE", help="append a JSONL record to this file")
    options = parser.parse_args()
    if options.tick_rate <= 0 or options.most_players < 1:
        parser.error("tick rate and most players must be above zero")
    return options


async def _serve(options: argparse.Namespace, stop: asyncio.Event) -> None:
    with History(options.stats) as history:
        async with Broker.connect(
            **connection(options), name=f"gateway {options.name}", outbound_limit=_OUTBOUND_LIMIT
        ) as broker:
            gateway = Gateway(broker, options.name, tick_rate=options.tick_rate, most_players=options.most_players)
            entrance = Entrance(broker, gateway, options.name)
            reporter = asyncio.ensure_future(_report(options.name, history, gateway, entrance))
            try:
                async with entrance.opened():
                    await gateway.run(stop)
            finally:
                reporter.cancel()
                with suppress(asyncio.CancelledError):
                    await reporter
                history.write("final", **_totals(gateway, entrance))
            await broker.drain(timeout=options.grace)


async def _report(name: str, history: History, gateway: Gateway, entrance: Entrance) -> None:
    await gateway.ready.wait()
    print(f"gateway ready: {name}", flush=True)
    while True:
        await asyncio.sleep(1.0)
        history.write("totals", at=time.monotonic(), **_totals(gateway, entrance))


def _totals(gateway: Gateway, entrance: Entrance) -> dict[str, object]:
    return {**gateway.totals(), "turned_away": entrance.turned_away, "quiet": entrance.quiet}


def main() -> int:
    """Run the process; its exit code."""
    options = _options()
    return run_process(lambda stop: _serve(options, stop), name="gateway", lifeline=options.lifeline)


if __name__ == "__main__":
    sys.exit(main())
