"""``python -m loadtest.chaos.producer``: enqueues settlements at a steady rate and sees each one through.

What an outage held up is made up for. An attempt without an answer is made again with the same key, for ever. SIGTERM:
nothing new is begun, what is under way is seen through.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from broker import (
    BrokerError,
    EnqueueManyError,
    Entry,
    NoStream,
    PayloadTooLarge,
    PermissionDenied,
    StreamFull,
)
from loadtest.chaos.histories import Event, Fate, History, Op, digest_of, now
from loadtest.chaos.joining import joined
from loadtest.chaos.options import process_options
from loadtest.chaos.plan import Plan
from loadtest.chaos.pulse import Pulse
from loadtest.chaos.settlements import SUBJECT, body_of, settlement_of
from services.process import run_process

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from broker import StreamBroker

REFUSALS: Final = (StreamFull, NoStream, PayloadTooLarge, PermissionDenied)
"""What they say is certain: nothing was stored."""
_CHUNK: Final = 100
_SIDE_BY_SIDE: Final = 4
_TICK: Final = 0.05
_TIMEOUT: Final = 5.0
_PAUSE: Final = 0.1
"""Seconds before what was refused is tried again."""

Sent = tuple[str, str, bytes]
"""Key, digest, body."""


class Producer:
    """Enqueues; counts what came of it."""

    def __init__(self, broker: StreamBroker, history: History, *, name: str, rate: float) -> None:
        self._broker = broker
        self._history = history
        self._name = name
        self._rate = rate
        self._begun = 0
        self._since = 0.0
        self._counts: Counter[str] = Counter()

    def counts(self) -> dict[str, float]:
        """So far: ``begun``, ``ok``, ``unknown``, ``refused``."""
        return {"begun": float(self._begun), **{name: float(count) for name, count in self._counts.items()}}

    async def run(self, stop: asyncio.Event) -> None:
        """Return when it was told to stop and everything begun is stored."""
        self._since = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as group:
            for _ in range(_SIDE_BY_SIDE):
                group.create_task(self._produce(stop))

    async def _produce(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            due = (asyncio.get_running_loop().time() - self._since) * self._rate - self._begun
            if due < min(_CHUNK, self._rate * _TICK):
                await asyncio.sleep(_TICK / 2)
                continue
            await self._see_through([self._next() for _ in range(min(_CHUNK, int(due)))])

    def _next(self) -> Sent:
        self._begun += 1
        body = body_of(settlement_of(key := f"{self._name}-{self._begun}"))
        return key, digest_of(body), body

    async def _see_through(self, chunk: Sequence[Sent]) -> None:
        while chunk:
            self._note(Op.START, chunk, told=Fate.EFFECT)
            try:
                await self._broker.enqueue_many(
                    [Entry(SUBJECT, body, idempotency_key=key) for key, _, body in chunk], timeout=_TIMEOUT
                )
            except EnqueueManyError as exc:
                self._note(Op.OK, [chunk[index] for index in exc.receipts])
                self._note_failed(chunk, exc.errors)
                chunk = [chunk[index] for index in exc.errors]
                await asyncio.sleep(_PAUSE)
            else:
                self._note(Op.OK, chunk)
                return

    def _note_failed(self, chunk: Sequence[Sent], errors: Mapping[int, BrokerError]) -> None:
        for index, error in errors.items():
            op = Op.FAIL if isinstance(error, REFUSALS) else Op.UNKNOWN
            self._note(op, [chunk[index]], told=type(error).__name__)

    def _note(self, op: Op, sent: Sequence[Sent], told: str = "") -> None:
        at = now()
        self._counts[_COUNTED[op]] += len(sent)
        self._history.write_many([Event(at, op, key, digest, told=told) for key, digest, _ in sent])


_COUNTED: Final = {Op.START: "attempts", Op.OK: "ok", Op.UNKNOWN: "unknown", Op.FAIL: "refused"}


async def _serve(options: argparse.Namespace, stop: asyncio.Event) -> None:
    directory, name = options.directory, options.name
    plan = Plan.load(directory)
    with History(directory, name) as history, History(directory, name, pulse=True) as pulse:
        async with aclosing(await joined(options.url, name)) as broker:
            producer = Producer(broker, history, name=name, rate=plan.rate / plan.producers)
            print(f"{name} ready", flush=True)
            async with Pulse(broker, pulse, producer.counts):
                await producer.run(stop)


def main() -> int:
    """Run the process; its exit code."""
    options = process_options(__doc__)
    return run_process(lambda stop: _serve(options, stop), name="chaos-producer", lifeline=options.lifeline)


if __name__ == "__main__":
    sys.exit(main())
