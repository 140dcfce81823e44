"""A settlement worker process: ``killed_worker.py URL DATABASE each|batch inbox|bare HOOK COUNT``.

At the COUNTth time that HOOK is reached it kills itself as ``kill -9`` would; ``-`` is never reached. With ``bare``
it has no inbox and commits by itself, as anybody's handler would. It says when it consumes, and runs until killed.
"""

import asyncio
import os
import signal
import sys

from sqlalchemy import text

from broker import StreamBroker
from broker.exactly_once import Inbox, hooks

SUBJECT, WORKER, BATCH = "battle.settle", "settle-worker", 8


class Death:
    """Comes at a point, the so-manieth time."""

    def __init__(self, point, count):
        self._point = point
        self._left = count

    def __call__(self, reached):
        if reached == self._point:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


_WORK = 0.008
"""Seconds, so that what is there together takes several transactions."""


async def pay(msg, tx):
    await tx.execute(text("INSERT INTO paid VALUES (:player, 1)"), {"player": msg.json()})
    await asyncio.sleep(_WORK)


async def pay_all(batch, tx):
    for msg in batch:
        await pay(msg, tx)


def bare(engine, handler):
    """Commits first, is acked then: at least once."""

    async def handle(taken):
        async with engine.connect() as tx:
            if engine.dialect.name == "sqlite":
                await tx.exec_driver_sql("BEGIN IMMEDIATE")
            await handler(taken, tx)
            hooks.reached("mid_batch")
            hooks.reached("before_commit")
            await tx.commit()
            hooks.reached("after_commit")

    return handle


def ack_between_hooks(sb, consumption):
    """Acks that the server has when ``after_ack`` is reached."""
    source = consumption._supply.source
    ack = source.ack

    async def told(deliveries):
        hooks.reached("before_ack")
        await ack(deliveries)
        await sb.flush()
        hooks.reached("after_ack")

    source.ack = told


async def main(url, database, kind, how, hook, count):
    hooks.install(Death(hook, int(count)))
    handler = pay if kind == "each" else pay_all
    options = {"durable": WORKER, "ack_wait": 1.0, "concurrency": 4 if how == "inbox" else 1, "backoff": [0.05]}
    if kind == "batch":
        options |= {"batch_size": BATCH, "batch_timeout": 0.05}
    async with Inbox(database) as inbox, StreamBroker.connect(url) as sb:
        if how == "inbox":
            consumption = await sb.consume(SUBJECT, handler, inbox=inbox, **options)
        else:
            consumption = await sb.consume(SUBJECT, bare(inbox.engine, handler), **options)
        ack_between_hooks(sb, consumption)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await consumption.wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
