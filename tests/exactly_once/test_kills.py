"""``kill -9`` of a worker at every named point: with the inbox the effect happens once, without it at least once."""

import asyncio
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from broker import Entry, StreamOptions
from broker.testing.waiting import eventually
from tests.exactly_once.killed_worker import BATCH, SUBJECT, WORKER
from tests.exactly_once.test_inbox import idle, letters

WORK = Path(__file__).with_name("killed_worker.py")
MESSAGES = 24
COUNT = 2
"""The point is reached this many times before: something was done, and something is left."""
TWICE = {"each": 1, "batch": BATCH}
"""How much is applied once more when the worker dies between its commit and its ack."""

pytestmark = [pytest.mark.nats, pytest.mark.fault, pytest.mark.slow, pytest.mark.timeout(120)]

POINTS = [
    *[("each", point) for point in ("before_commit", "after_commit", "before_ack", "after_ack")],
    *[("batch", point) for point in ("before_commit", "mid_batch", "after_commit", "before_ack", "after_ack")],
]


@pytest_asyncio.fixture
async def sb(stream_broker):
    await stream_broker.declare(StreamOptions("BATTLES", ["battle.>"]))
    return stream_broker


@asynccontextmanager
async def worker(*words):
    process = await asyncio.create_subprocess_exec(sys.executable, str(WORK), *words, stdout=asyncio.subprocess.PIPE)
    try:
        assert await asyncio.wait_for(process.stdout.readline(), 30) == b"ready\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.parametrize("how", ["inbox", "bare"])
@pytest.mark.parametrize(("batches", "point"), POINTS)
async def test_a_worker_killed_at(sb, nats_server, url, ledger, batches, point, how):
    words = (nats_server.url, url, batches, how)
    async with worker(*words, point, str(COUNT)) as doomed:
        players = [f"p{n:02}" for n in range(MESSAGES)]
        await sb.enqueue_many(Entry(SUBJECT, player, idempotency_key=player) for player in players)
        assert await asyncio.wait_for(doomed.wait(), 30) == -signal.SIGKILL
    async with worker(*words, "-", "1"):
        await eventually(lambda: idle(sb, WORKER), within=30)
    paid = await ledger.paid()
    doubled = sum(paid.values()) - MESSAGES
    assert sorted(paid) == players
    assert set(paid.values()) <= {1, 2}
    assert await letters(sb) == []
    unsafe = how == "bare" and point in {"after_commit", "before_ack"}
    assert 0 < doubled <= TWICE[batches] if unsafe else doubled == 0
