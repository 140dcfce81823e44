"""``python -m loadtest.chaos.worker``: settles what is handed to it; dies at a named point when it is told to."""

from __future__ import annotations

import asyncio
import logging
import sys
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from broker import StreamNotFound
from broker.exactly_once import Inbox, hooks
from loadtest.chaos.databases import address
from loadtest.chaos.hands import Bare, Clerk, Handler, Notes, WatchedInbox
from loadtest.chaos.histories import History
from loadtest.chaos.joining import joined, patiently
from loadtest.chaos.mutations import BARE
from loadtest.chaos.options import process_options
from loadtest.chaos.orders import Orders
from loadtest.chaos.plan import Plan
from loadtest.chaos.pulse import Pulse
from loadtest.chaos.settlements import SUBJECT, WORKERS
from services.process import run_process, stopped

if TYPE_CHECKING:
    import argparse

    from broker import Consumption, StreamBroker

log = logging.getLogger("loadtest.chaos")

MAX_DELIVER: Final = 10
"""Above what kills alone can use up, so that only poison gets there."""
_BACKOFF: Final = (0.05,)
_BATCH_TIMEOUT: Final = 0.02
_AT_ONCE: Final = 2


async def _consume(broker: StreamBroker, inbox: Inbox, clerk: Clerk, plan: Plan) -> Consumption:
    handler = Handler(clerk)
    mutation = plan.mutation if plan.mutation in BARE else None
    return await broker.consume(
        SUBJECT,
        Bare(inbox.engine, clerk, mutation) if mutation else handler,
        inbox=None if mutation else WatchedInbox(inbox, handler, clerk),
        durable=WORKERS,
        max_ack_pending=plan.batch * plan.workers * (_AT_ONCE + 1),
        ack_wait=plan.ack_wait,
        concurrency=_AT_ONCE,
        max_deliver=MAX_DELIVER,
        backoff=_BACKOFF,
        batch_size=plan.batch,
        batch_timeout=_BATCH_TIMEOUT,
    )


async def _serve(options: argparse.Namespace, stop: asyncio.Event) -> None:
    directory, name = options.directory, options.name
    plan = Plan.load(directory)
    with (
        History(directory, name) as history,
        History(directory, name, pulse=True) as pulse,
    ):
        orders = Orders(directory, name, pulse)
        notes = Notes(history)
        hooks.install(orders.reached)
        async with Inbox(address(directory)) as inbox:

            def counts() -> dict[str, float]:
                stats = inbox.stats
                return {"contended": float(stats.contended), "outages": float(stats.outages), **notes.counts()}

            clerk = Clerk(plan.db, notes, orders, plan.mutation)
            async with aclosing(await joined(options.url, name)) as broker, Pulse(broker, pulse, counts):
                consumption = await patiently(lambda: _consume(broker, inbox, clerk, plan))
                print(f"{name} ready", flush=True)
                while not stop.is_set():
                    try:
                        await stopped(stop, consumption)
                    except StreamNotFound:  # deleted: whoever did that makes it anew, or this worker waits for ever
                        log.warning("waits for its stream")
                        consumption = await patiently(lambda: _consume(broker, inbox, clerk, plan))
                async with asyncio.timeout(options.grace):
                    await consumption.drain()
                    await broker.drain()


def main() -> int:
    """Run the process; its exit code."""
    options = process_options(__doc__)
    return run_process(lambda stop: _serve(options, stop), name="chaos-worker", lifeline=options.lifeline)


if __name__ == "__main__":
    sys.exit(main())
