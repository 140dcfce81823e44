"""A worker as a deployment runs it: SIGTERM drains it. Notes on standard output what it has handled."""

import asyncio
import signal
import sys

from broker import StreamBroker


def note(*messages):
    """Lines, written at once: what a killed process kept to itself would be missing."""
    sys.stdout.write("".join(f"{each.json()}\n" for each in messages))
    sys.stdout.flush()


async def one_at_a_time(msg):
    await asyncio.sleep(0.002)
    note(msg)


async def together(batch):
    await asyncio.sleep(0.005)
    note(*batch)


KINDS = {
    "async": (one_at_a_time, {}),
    "plain": (note, {}),
    "batch": (together, {"batch_size": 20, "batch_timeout": 0.05, "concurrency": 3}),
}


async def main(url, link, kind):
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    handler, options = KINDS[kind]
    async with StreamBroker.connect(url, link=link) as sb:
        await sb.consume("s.a", handler, durable="w", stream="S", ack_wait=60, **options)
        await stop.wait()
        await sb.drain()


asyncio.run(main(*sys.argv[1:]))
