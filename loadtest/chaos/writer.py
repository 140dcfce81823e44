"""``python -m loadtest.chaos.writer``: a producer that writes settlements into an outbox; a relay sends them.

What its transaction has committed is promised. What a server loses of it, ``reconcile`` has sent again. SIGTERM: it
ends at once, for what it has written is on disk; told to finish, it writes nothing new and sees the rest settled.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections import Counter
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Final

from broker import BrokerError
from broker.exactly_once import Inbox, Outbox, reconcile
from loadtest.chaos.catalogue import DUPLICATE_WINDOW
from loadtest.chaos.databases import address
from loadtest.chaos.histories import Event, Fate, History, Op, digest_of, now
from loadtest.chaos.joining import joined
from loadtest.chaos.options import process_options
from loadtest.chaos.orders import FINISH, Orders
from loadtest.chaos.plan import Plan
from loadtest.chaos.pulse import Pulse
from loadtest.chaos.settlements import STREAM, SUBJECT, WORKERS, body_of, settlement_of
from services.process import run_process

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from broker import Receipt, StreamBroker

_CHUNK: Final = 50
_TICK: Final = 0.05
_LOOK: Final = 1.0
_OLDER: Final = DUPLICATE_WINDOW + 1.0
_POLL: Final = 0.25
_TIMEOUT: Final = 3.0

Sent = tuple[str, str, bytes]
"""Key, digest, body."""


class Writer:
    """Writes at a steady rate; counts what came of it."""

    def __init__(self, outbox: Outbox, history: History, *, name: str, rate: float) -> None:
        self._outbox = outbox
        self._history = history
        self._name = name
        self._rate = rate
        self._begun = 0
        self._told: list[str] = []
        self.counted: Counter[str] = Counter()

    def counts(self) -> dict[str, float]:
        """So far: ``ok`` stored, ``again`` sent once more after a loss, ``finished`` when there is nothing left."""
        stats = self._outbox.stats
        seen = {name: float(count) for name, count in self.counted.items()}
        return {"begun": float(self._begun), "refused": float(stats.failed), **seen}

    async def write(self, over: Orders, stop: asyncio.Event) -> None:
        """Until it is told to finish, or to stop."""
        clock = asyncio.get_running_loop().time
        since = clock()
        while not stop.is_set() and over.pending() != FINISH:
            due = (clock() - since) * self._rate - self._begun
            if due < min(_CHUNK, self._rate * _TICK):
                await asyncio.sleep(_TICK / 2)
                continue
            await self._commit([self._next() for _ in range(min(_CHUNK, int(due)))])

    def _next(self) -> Sent:
        self._begun += 1
        body = body_of(settlement_of(key := f"{self._name}-{self._begun}"))
        return key, digest_of(body), body

    async def _commit(self, chunk: Sequence[Sent]) -> None:
        """All of them in one transaction, however many it takes to get there."""
        self._note(Op.START, chunk, told=Fate.EFFECT)
        while True:
            try:
                async with self._outbox.transaction() as tx:
                    for key, _, body in chunk:
                        await self._outbox.enqueue(tx, SUBJECT, body, idempotency_key=key)
            except BrokerError:
                await asyncio.sleep(_TICK)
                continue
            self._note(Op.WRITTEN, chunk)
            return

    def _note(self, op: Op, sent: Sequence[Sent], told: str = "") -> None:
        at = now()
        self._history.write_many([Event(at, op, key, digest, told=told) for key, digest, _ in sent])

    def stored(self, _: str, key: str, receipt: Receipt) -> None:
        """The relay tells: this one is in its stream."""
        self.counted["ok"] += 1
        self.counted["repeats"] += receipt.duplicate
        if not self._told:
            asyncio.get_running_loop().call_soon(self._write_told)
        self._told.append(key)

    def _write_told(self) -> None:
        keys, self._told = self._told, []
        self._note(Op.OK, [(key, digest_of(body), body) for key in keys for body in (body_of(settlement_of(key)),)])

    async def reconcile(self, inbox: Inbox, broker: StreamBroker, over: Orders, stop: asyncio.Event) -> None:
        """Now and then; ends when it was told to finish and there is nothing left that was not settled."""
        while not stop.is_set():
            finishing = over.pending() == FINISH
            with suppress(BrokerError):  # a server or a database is away: there is a next look
                found = await reconcile(self._outbox, inbox, broker, stream=STREAM, consumer=WORKERS, older_than=_OLDER)
                self.counted["again"] += found.again
                if finishing and not await self._left():
                    self.counted["finished"] = 1
                    return
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _POLL if finishing else _LOOK)

    async def _left(self) -> bool:
        """Whether anything waits to be sent, or is not known to be settled."""
        if await self._outbox.waiting():
            return True
        return bool(await self._outbox.sent_before(time.time() + _OLDER, STREAM, None, 1))


async def _serve(options: argparse.Namespace, stop: asyncio.Event) -> None:
    directory, name = options.directory, options.name
    # Whoever waits for a stream that is gone says so for each message, and that is what is done to it here.
    logging.getLogger("broker.exactly_once").setLevel(logging.ERROR)
    plan = Plan.load(directory)
    with History(directory, name) as history, History(directory, name, pulse=True) as pulse:
        orders = Orders(directory, name, pulse)
        path = directory / f"{name}.outbox.db"
        async with Outbox(f"sqlite+aiosqlite:///{path}") as outbox, Inbox(address(directory)) as inbox:
            await outbox.create()
            writer = Writer(outbox, history, name=name, rate=plan.rate / plan.producers)
            async with (
                aclosing(await joined(options.url, name)) as broker,
                outbox.relay(broker, timeout=_TIMEOUT, tell=writer.stored),
                Pulse(broker, pulse, writer.counts),
            ):
                print(f"{name} ready", flush=True)
                async with asyncio.TaskGroup() as group:
                    group.create_task(writer.write(orders, stop))
                    group.create_task(writer.reconcile(inbox, broker, orders, stop))
                await stop.wait()


def main() -> int:
    """Run the process; its exit code."""
    options = process_options(__doc__)
    return run_process(lambda stop: _serve(options, stop), name="chaos-writer", lifeline=options.lifeline)


if __name__ == "__main__":
    sys.exit(main())
