"""SIGTERM under load: nothing handled comes again, and nothing fetched is left to wait out its ack wait.

``GAMEBROKER_SIGTERM_ROUNDS`` says how often; 10 when it is not set.
"""

import asyncio
import os
import random
import signal
import sys
from itertools import count, cycle
from pathlib import Path
from time import monotonic

import pytest

from broker import Entry, StreamOptions

ROUNDS = int(os.environ.get("GAMEBROKER_SIGTERM_ROUNDS", "10"))
ACK_WAIT = 60
AT_ONCE = 15.0
"""Seconds in which whatever the worker left is there for the next one; on a busy machine, and far below ACK_WAIT."""
WORKER = Path(__file__).with_name("sigterm_worker.py")

pytestmark = [pytest.mark.nats, pytest.mark.fault, pytest.mark.slow, pytest.mark.timeout(60 + 30 * ROUNDS)]


class Load:
    """Stores numbers without a pause until it is told to end."""

    def __init__(self, sb, numbers):
        self._sb = sb
        self._numbers = numbers
        self._enough = False
        self.stored = set()
        self.task = asyncio.create_task(self._run())

    async def _run(self):
        while not self._enough:
            some = [next(self._numbers) for _ in range(50)]
            await self._sb.enqueue_many(Entry("s.a", number) for number in some)
            self.stored.update(some)

    async def end(self):
        self._enough = True
        await self.task
        return self.stored


async def handled_by(worker):
    """What it noted until it ended."""
    return [int(line) for line in (await worker.stdout.read()).split()]


async def left_over(sb, number):
    """The rest, as the next worker gets it: each once, in time."""
    left = {}
    deadline = monotonic() + AT_ONCE
    async with sb.pull("s.a", durable="w", stream="S", ack_wait=ACK_WAIT, max_ack_pending=256) as puller:
        while len(left) < number and monotonic() < deadline:
            for msg in await puller.fetch(100, timeout=1):
                assert msg.json() not in left
                left[msg.json()] = msg.attempt
                await msg.ack()
        assert await puller.fetch(1, timeout=0.3) == []
    return left


async def test_sigterm_under_load_repeats_nothing_and_leaves_nothing_waiting(server, connect, link):
    numbers, kinds = count(), cycle(["async", "plain", "batch"])
    async with connect() as sb:
        await sb.declare(StreamOptions("S", ["s.>"], storage="memory"))
        for turn in range(ROUNDS):
            kind = next(kinds)
            load = Load(sb, numbers)
            worker = await asyncio.create_subprocess_exec(
                sys.executable, str(WORKER), server.url, link, kind, stdout=asyncio.subprocess.PIPE
            )
            first = await asyncio.wait_for(worker.stdout.readline(), 30)
            reading = asyncio.create_task(handled_by(worker))
            await asyncio.sleep(random.uniform(0.0, 0.3))
            worker.send_signal(signal.SIGTERM)
            began = monotonic()
            assert await asyncio.wait_for(worker.wait(), 28) == 0
            ended = monotonic() - began
            handled = [int(first), *(await reading)]
            stored = await load.end()
            left = await left_over(sb, len(stored) - len(set(handled)))
            told = (
                f"round {turn}, {kind}: {len(stored)} stored, {len(handled)} handled, {len(left)} left, {ended:.2f} s"
            )
            assert len(handled) == len(set(handled)), told
            assert not set(handled) & set(left), told
            assert set(handled) | set(left) == stored, told
