"""``python -m loadtest.chaos.census``: what is left on the server at the end, written into a history of its own."""

from __future__ import annotations

import sys
from contextlib import aclosing
from typing import TYPE_CHECKING

from broker import ConsumerNotFound
from loadtest.chaos.histories import Event, History, Op, digest_of, now
from loadtest.chaos.joining import joined
from loadtest.chaos.options import process_options
from loadtest.chaos.settlements import STREAM, WORKERS
from services.process import run_process

if TYPE_CHECKING:
    import argparse
    import asyncio

    from broker import StreamBroker


async def unsettled(broker: StreamBroker) -> dict[str, float]:
    """Messages that nobody has settled; without the workers' position, all there are."""
    try:
        info = await broker.consumers.info(STREAM, WORKERS)
    except ConsumerNotFound:
        return {"pending": float((await broker.streams.info(STREAM)).messages), "ack_pending": 0.0}
    return {"pending": float(info.pending), "ack_pending": float(info.ack_pending)}


async def _serve(options: argparse.Namespace, _: asyncio.Event) -> None:
    with History(options.directory, options.name) as history:
        async with aclosing(await joined(options.url, options.name)) as broker:
            print(f"{options.name} ready", flush=True)
            async for letter in broker.dead_letters.list(stream=STREAM):
                key, digest = letter.idempotency_key or "", digest_of(letter.data)
                history.write_many([Event(now(), Op.LETTER, key, digest, attempt=letter.attempts, told=letter.reason)])
            history.write(Op.LEFT, counts=await unsettled(broker))


def main() -> int:
    """Run the process; its exit code."""
    options = process_options(__doc__)
    return run_process(lambda stop: _serve(options, stop), name="chaos-census", lifeline=options.lifeline)


if __name__ == "__main__":
    sys.exit(main())
