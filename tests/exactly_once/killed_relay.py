"""A relay process: ``killed_relay.py URL DATABASE HOOK``; it dies at the second HOOK, or without one runs on."""

import asyncio
import sys

from broker import StreamBroker
from broker.exactly_once import Outbox, hooks
from tests.exactly_once.killed_worker import Death


async def main(url, database, hook):
    hooks.install(Death(hook, 2))
    async with (
        Outbox(database) as outbox,
        StreamBroker.connect(url) as sb,
        outbox.relay(sb, poll=0.05, batch=6) as relay,
    ):
        await relay.wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
