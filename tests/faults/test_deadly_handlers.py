"""A handler that kills its process: the message ends among the dead letters, whoever counts the attempts."""

import asyncio
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from broker import StreamOptions
from broker.testing.conformance.scene import letters
from broker.testing.waiting import eventually
from tests.limited import limited

WORKER = Path(__file__).with_name("deadly_worker.py")

pytestmark = [pytest.mark.nats, pytest.mark.fault, pytest.mark.slow, pytest.mark.timeout(120)]


@asynccontextmanager
async def deployed(server, link, *arguments):
    """A worker that is started again whenever it dies: how often it was killed so far, and what it has handled."""
    deaths, seen, running = [], [], []

    async def keep_running():
        while True:
            worker = await asyncio.create_subprocess_exec(
                *(sys.executable, WORKER, server.url, link, *arguments), stdout=asyncio.subprocess.PIPE
            )
            running[:] = [worker]
            async for line in worker.stdout:
                seen.append(line.decode().strip())
            deaths.append(await worker.wait())

    task = asyncio.create_task(keep_running())
    try:
        yield deaths, seen
    finally:
        task.cancel()
        await asyncio.wait([task])
        for worker in running:
            if worker.returncode is None:
                worker.kill()
            await worker.communicate()


@pytest.mark.parametrize("kind", ["async", "plain", "batch", "ordered"])
async def test_it_ends_there_after_its_last_attempt(server, sb, link, kind):
    await sb.declare(StreamOptions("S", ["s.a"], lanes=1 if kind == "ordered" else None))
    await sb.enqueue("s.a", "poison", idempotency_key="p", **({"ordering_key": "k"} if kind == "ordered" else {}))
    async with deployed(server, link, kind, "S", "verify") as (deaths, seen):
        [letter] = await eventually(lambda: letters(sb), within=90)
        assert (letter.data, letter.error_type, letter.idempotency_key) == (b'"poison"', "AttemptsExhausted", "p")
        await sb.enqueue("s.a", "fine", **({"ordering_key": "other"} if kind == "ordered" else {}))
        await eventually(lambda: "fine" in seen, within=30)
        assert deaths == [-signal.SIGKILL] * 3


async def test_where_the_server_gives_up_first_a_sweep_finds_it(server, sb, link):
    await sb.declare(StreamOptions("S", ["s.a"], retention="workqueue"))
    await limited(sb, max_deliver=3, ack_wait=1)
    await sb.enqueue("s.a", "poison", idempotency_key="p")
    async with deployed(server, link, "async", "S", "bind") as (deaths, seen):
        await eventually(lambda: len(deaths) == 3, within=90)
        await sb.enqueue("s.a", "fine")
        await eventually(lambda: "fine" in seen, within=30)

        async def swept():
            await sb.dead_letters.sweep("S")
            return await letters(sb)

        [letter] = await eventually(swept, within=60)
        assert (letter.data, letter.attempts, letter.reason) == (b'"poison"', 3, "max_deliver (server)")
        assert letter.idempotency_key == "p"
        assert deaths == [-signal.SIGKILL] * 3
