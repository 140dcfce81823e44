"""``python -m services.leaderboard``: one leaderboard worker; SIGTERM drains it."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from broker import StreamBroker
from services.connection import keyed_connection
from services.events import LEADERBOARD, STANDINGS_CONSUMER
from services.leaderboard.standings import Standings
from services.leaderboard.worker import LeaderboardWorker
from services.process import add_process_options, run_process, stopped


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m services.leaderboard", description=__doc__)
    add_process_options(parser)
    parser.add_argument(
        "--standings",
        type=Path,
        default=Path("standings.db"),
        metavar="FILE",
        help="SQLite file (default %(default)s)",
    )
    parser.add_argument(
        "--ack-wait",
        type=float,
        default=STANDINGS_CONSUMER.ack_wait,
        metavar="SECONDS",
        help="until a dead worker's messages go to others",
    )
    return parser.parse_args()


async def _serve(options: argparse.Namespace, stop: asyncio.Event) -> None:
    with Standings(options.standings) as standings:
        async with StreamBroker.connect(**keyed_connection(options), name="leaderboard") as broker:
            await broker.declare(LEADERBOARD, ensure=options.ensure)
            worker = LeaderboardWorker(broker, standings, ack_wait=options.ack_wait, ensure=options.ensure)
            try:
                consumption = await worker.start()
                print("leaderboard ready", flush=True)
                await stopped(stop, consumption)
                async with asyncio.timeout(options.grace):
                    await worker.drain()
                    await broker.drain()
            finally:
                worker.abort()


def main() -> int:
    """Run the process; its exit code."""
    options = _options()
    return run_process(lambda stop: _serve(options, stop), name="leaderboard", lifeline=options.lifeline)


if __name__ == "__main__":
    sys.exit(main())
