"""``python -m loadtest.lanes``: what order costs. Messages a second of one worker, with and without lanes.

Each run enqueues the same messages of 240 keys on a fresh stream, then consumes them; the order of the runs is turned
round from round to round, and the figure is the median. The server syncs every write of a stream, as it does by
default here; acks are no such writes.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
from collections import defaultdict
from time import perf_counter
from typing import TYPE_CHECKING, Final

import uvloop

from broker import Entry, StreamBroker, StreamOptions
from broker.server import NatsServer
from loadtest.machine import Machine

if TYPE_CHECKING:
    from broker import StreamMessage

_KEYS: Final = tuple(f"player-{number}" for number in range(240))
_LANES: Final = (None, 1, 4, 8, 16, 32)
_HANDLING: Final = (0.0, 0.002)
"""Seconds that a handler waits for its database."""


async def rate(sb: StreamBroker, lanes: int | None, handling: float, messages: int) -> float:
    """Messages a second, from the first one handled to the last, with so many lanes; ``None``: without order."""
    left, done, first = messages, asyncio.Event(), 0.0

    async def handle(msg: StreamMessage) -> None:
        nonlocal left, first
        del msg
        first = first or perf_counter()
        if handling:
            await asyncio.sleep(handling)
        left -= 1
        if not left:
            done.set()

    await sb.declare(StreamOptions("LANES", ["lanes.command"], lanes=lanes))
    await sb.enqueue_many(
        Entry("lanes.command", b"x" * 128, ordering_key=_KEYS[number % len(_KEYS)]) for number in range(messages)
    )
    worker = await sb.consume("lanes.command", handle, queue="bench", ordered=lanes is not None, concurrency=32)
    async with asyncio.timeout(120):
        await done.wait()
    took = perf_counter() - first
    await worker.drain()
    await sb.streams.delete("LANES")
    return messages / took


async def main(rounds: int, messages: int) -> None:
    """Measure and print."""
    rates: dict[tuple[float, int | None], list[float]] = defaultdict(list)
    async with NatsServer() as server, StreamBroker.connect(server.url) as sb:
        for number in range(rounds):
            plan = [(handling, lanes) for handling in _HANDLING for lanes in _LANES]
            for handling, lanes in plan if number % 2 else reversed(plan):
                rates[handling, lanes].append(await rate(sb, lanes, handling, messages))
    machine = Machine.here()
    print(f"{machine.cores} cores of {machine.cpu}, load {machine.load}, nats-server {server.version}")
    for handling in _HANDLING:
        print(f"\nhandler waits {handling * 1000:g} ms")
        for lanes in _LANES:
            found = rates[handling, lanes]
            name = "unordered" if lanes is None else f"{lanes} lane{'s' if lanes > 1 else ''}"
            print(f"  {name:10} {statistics.median(found):8,.0f}/s  ({min(found):,.0f} to {max(found):,.0f})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--messages", type=int, default=6000)
    given = parser.parse_args()
    uvloop.run(main(given.rounds, given.messages))
