"""A worker process of an ordered queue: ``python lane_worker.py URL SUBJECT QUEUE FILE LINK SECONDS FAILING``.

A handler takes SECONDS; FAILING is the share of attempts that raise. Every message it has handled becomes one line of
FILE, appended in one write, so that the lines of all workers stand in the order in which things happened: worker, key,
turn, sequence, attempt, time. It ends when its input does, or on SIGTERM, and then drains.
"""

import asyncio
import contextlib
import os
import random
import signal
import sys
import time

from broker import StreamBroker


async def main(url, subject, queue, file, link, seconds, failing):
    log = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_reader(sys.stdin.fileno(), stop.set)

    async def handle(msg):
        key, turn = msg.json()
        await asyncio.sleep(float(seconds))
        if random.random() < float(failing):
            raise RuntimeError("not now")
        os.write(log, f"{os.getpid()} {key} {turn} {msg.sequence} {msg.attempt} {time.monotonic()}\n".encode())

    async with StreamBroker.connect(url, link=link) as sb:
        options = {"queue": queue, "ordered": True, "backoff": (0.05, 0.3), "max_deliver": 100}
        worker = await sb.consume(subject, handle, **options)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        waiting, stopping = asyncio.create_task(worker.wait()), asyncio.create_task(stop.wait())
        await asyncio.wait([waiting, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        await worker.drain()
        await waiting


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(*sys.argv[1:]))
