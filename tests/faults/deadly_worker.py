"""A worker whose handler kills its own process on the message ``"poison"``. Prints what it has handled."""

import asyncio
import os
import signal
import sys

from broker import StreamBroker


def handled(msg):
    if msg.json() == "poison":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.stdout.write(f"{msg.json()}\n")
    sys.stdout.flush()


async def one_at_a_time(msg):
    await asyncio.sleep(0.002)
    handled(msg)


async def together(batch):
    for each in batch:
        handled(each)


HANDLERS = {
    "async": (one_at_a_time, {"concurrency": 1}),
    "plain": (handled, {}),
    "batch": (together, {"batch_size": 5, "batch_timeout": 0.05, "concurrency": 1}),
    "ordered": (one_at_a_time, {"ordered": True}),
}


async def main(url, link, kind, stream, ensure):
    handler, options = HANDLERS[kind]
    name = {"queue": "w"} if kind == "ordered" else {"durable": "w"}
    async with StreamBroker.connect(url, link=link) as sb:
        worker = await sb.consume(
            f"{stream.lower()}.a", handler, stream=stream, ensure=ensure, ack_wait=1, max_deliver=3, **name, **options
        )
        await worker.wait()


asyncio.run(main(*sys.argv[1:]))
