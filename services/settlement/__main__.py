"""``python -m services.settlement``: one settlement worker; SIGTERM drains it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from services.events import LEADERBOARD, SETTLE_CONSUMER, SETTLEMENTS
from services.process import run_process
from services.settlement.ledger import Ledger
from services.settlement.worker import SettlementWorker
from services.worker import run_worker, worker_parser

if TYPE_CHECKING:
    import argparse
    import asyncio


def _options() -> argparse.Namespace:
    parser = worker_parser("settlement", __doc__, SETTLE_CONSUMER)
    parser.add_argument(
        "--ledger",
        type=Path,
        default=Path("ledger.db"),
        metavar="FILE",
        help="SQLite file, shared by all workers (default %(default)s)",
    )
    parser.add_argument("--name", default=f"settlement-{os.getpid()}", help="of this worker (default %(default)s)")
    return parser.parse_args()


async def _serve(options: argparse.Namespace, stop: asyncio.Event) -> None:
    with Ledger(options.ledger, worker=options.name) as ledger:
        await run_worker(
            options,
            stop,
            lambda broker: SettlementWorker(broker, ledger, ack_wait=options.ack_wait, ensure=options.ensure),
            name=options.name,
            streams=(SETTLEMENTS, LEADERBOARD),
            ready=f"settlement ready: {options.name}",
        )


def main() -> int:
    """Run the process; its exit code."""
    options = _options()
    return run_process(lambda stop: _serve(options, stop), name="settlement", lifeline=options.lifeline)


if __name__ == "__main__":
    sys.exit(main())
