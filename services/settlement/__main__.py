"""``python -m services.settlement``: one settlement worker; SIGTERM drains it."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path

from broker import StreamBroker
from services.connection import keyed_connection
from services.events import LEADERBOARD, SETTLE_CONSUMER, SETTLEMENTS
from services.process import add_process_options, run_process, stopped
from services.settlement.ledger import Ledger
from services.settlement.worker import SettlementWorker


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m services.settlement", description=__doc__)
    add_process_options(parser)
    parser.add_argument(
        "--ledger",
        type=Path,
        default=Path("ledger.db"),
        metavar="FILE",
        help="SQLite file, shared by all workers (default %(default)s)",
    )
    parser.add_argument("--name", default=f"settlement-{os.getpid()}", help="of this worker (default %(default)s)")
    parser.add_argument(
        "--ack-wait",
        type=float,
        default=SETTLE_CONSUMER.ack_wait,
        metavar="SECONDS",
        help="until a dead worker's messages go to others",
    )
    return parser.parse_args()


async def _serve(options: argparse.Namespace, stop: asyncio.Event) -> None:
    with Ledger(options.ledger, worker=options.name) as ledger:
        async with StreamBroker.connect(**keyed_connection(options), name=options.name) as broker:
            await broker.declare(SETTLEMENTS, LEADERBOARD, ensure=options.ensure)
            worker = SettlementWorker(broker, ledger, ack_wait=options.ack_wait, ensure=options.ensure)
            try:
                consumption = await worker.start()
                print(f"settlement ready: {options.name}", flush=True)
                await stopped(stop, consumption)
                async with asyncio.timeout(options.grace):
                    await worker.drain()
                    await broker.drain()
            finally:
                await worker.abort()


def main() -> int:
    """Run the process; its exit code."""
    options = _options()
    return run_process(lambda stop: _serve(options, stop), name="settlement", lifeline=options.lifeline)


if __name__ == "__main__":
    sys.exit(main())
