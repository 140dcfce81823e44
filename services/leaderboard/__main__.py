"""``python -m services.leaderboard``: one leaderboard worker; SIGTERM drains it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from services.events import LEADERBOARD, STANDINGS_CONSUMER
from services.leaderboard.standings import Standings
from services.leaderboard.worker import LeaderboardWorker
from services.process import run_process
from services.worker import run_worker, worker_parser

if TYPE_CHECKING:
    import argparse
    import asyncio


def _options() -> argparse.Namespace:
    parser = worker_parser("leaderboard", __doc__, STANDINGS_CONSUMER)
    parser.add_argument(
        "--standings",
        type=Path,
        default=Path("standings.db"),
        metavar="FILE",
        help="SQLite file (default %(default)s)",
    )
    return parser.parse_args()


async def _serve(options: argparse.Namespace, stop: asyncio.Event) -> None:
    with Standings(options.standings) as standings:
        await run_worker(
            options,
            stop,
            lambda broker: LeaderboardWorker(broker, standings, ack_wait=options.ack_wait, ensure=options.ensure),
            name="leaderboard",
            streams=(LEADERBOARD,),
            ready="leaderboard ready",
        )


def main() -> int:
    """Run the process; its exit code."""
    options = _options()
    return run_process(lambda stop: _serve(options, stop), name="leaderboard", lifeline=options.lifeline)


if __name__ == "__main__":
    sys.exit(main())
