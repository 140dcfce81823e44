"""A worker process whose every attempt fails: ``python later_worker.py URL SUBJECT DURABLE LINK BACKOFF``.

It notes each message on standard output, and waits to be killed.
"""

import asyncio
import sys

from broker import StreamBroker


def fail(msg):
    sys.stdout.write(f"{msg.json()} {msg.attempt}\n")
    sys.stdout.flush()
    raise ConnectionError


async def main(url, subject, durable, link, backoff):
    async with StreamBroker.connect(url, link=link) as sb:
        worker = await sb.consume(subject, fail, durable=durable, backoff=(float(backoff),), reschedule_after=0.2)
        await worker.wait()


asyncio.run(main(*sys.argv[1:]))
