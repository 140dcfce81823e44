"""``kill -9`` of a worker at every named point: with the inbox the effect happens once, without it at least once."""

import asyncio
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from broker import Entry, StreamOptions
from broker.exactly_once import Outbox
from broker.testing.waiting import eventually
from tests.exactly_once.killed_worker import BATCH, SUBJECT, WORKER
from tests.exactly_once.test_inbox import idle, letters
from tests.exactly_once.test_reconciling import nothing_waits

TOP = Path(__file__).resolve().parents[2]
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
async def running(program, *words):
    module = f"tests.exactly_once.{program}"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *words, stdout=asyncio.subprocess.PIPE, cwd=TOP
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@asynccontextmanager
async def worker(*words):
    async with running("killed_worker", *words) as process:
        assert await asyncio.wait_for(process.stdout.readline(), 30) == b"ready\n"
        yield process


@pytest.mark.parametrize("point", ["before_mark", "before_commit", "after_commit"])
async def test_a_relay_killed_at(sb, nats_server, url, point):
    """What was stored and not marked is stored again under the same key: the stream drops it, and order stays."""
    async with Outbox(url) as outbox:
        await outbox.create()
        async with outbox.engine.begin() as tx:
            for number in range(MESSAGES):
                await outbox.enqueue(tx, SUBJECT, number, ordering_key=f"p{number % 3}")
        async with running("killed_relay", nats_server.url, url, point) as doomed:
            assert await asyncio.wait_for(doomed.wait(), 30) == -signal.SIGKILL
        async with running("killed_relay", nats_server.url, url, "-"):
            await eventually(lambda: nothing_waits(outbox), within=30)
    async with sb.read(SUBJECT, start="first", until="end") as messages:
        stored = [message.json() async for message in messages]
    assert sorted(stored) == list(range(MESSAGES))
    for key in range(3):
        assert [number for number in stored if number % 3 == key] == list(range(key, MESSAGES, 3))


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
