"""``python -m services.settlement``: one settlement worker; SIGTERM drains it."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from services.database import add_database_option, opened
from services.events import AUDIT, LEADERBOARD, SETTLE_CONSUMER, SETTLEMENTS
from services.process import run_process
from services.settlement.ledger import Ledger
from services.settlement.tables import METADATA
from services.settlement.worker import SettlementWorker
from services.worker import run_worker, worker_parser

if TYPE_CHECKING:
    import argparse
    import asyncio


def _options() -> argparse.Namespace:
    parser = worker_parser("settlement", __doc__, SETTLE_CONSUMER)
    add_database_option(parser, "ledger.db")
    parser.add_argument("--name", default=f"settlement-{os.getpid()}", help="of this worker (default %(default)s)")
    return parser.parse_args()


async def _serve(options: argparse.Namespace, stop: asyncio.Event) -> None:
    async with opened(options.database, METADATA) as (inbox, outbox):
        ledger = Ledger(outbox, worker=options.name)
        await run_worker(
            options,
            stop,
            lambda broker: SettlementWorker(
                broker, ledger, inbox, outbox, ack_wait=options.ack_wait, ensure=options.ensure
            ),
            name=options.name,
            streams=(SETTLEMENTS, LEADERBOARD, AUDIT),
            ready=f"settlement ready: {options.name}",
        )


def main() -> int:
    """Run the process; its exit code."""
    options = _options()
    return run_process(lambda stop: _serve(options, stop), name="settlement", lifeline=options.lifeline)


if __name__ == "__main__":
    sys.exit(main())
