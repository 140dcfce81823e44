"""Nothing that waits for a far attempt is lost: not with its worker, nor with the server, nor while that is frozen."""

import asyncio
import sys
from collections import Counter
from pathlib import Path

import pytest

from broker import Entry, StreamOptions
from broker.testing.waiting import eventually

pytestmark = [pytest.mark.nats, pytest.mark.fault]

WORKER = Path(__file__).parents[1] / "later_worker.py"
LATER = "GAMEBROKER_LATER"
MANY = 50


async def emptied(sb):
    return (await sb.streams.info(LATER)).messages == 0


async def settled(sb):
    info = await sb.consumers.info("MAIL", "mailer")
    return (info.pending, info.ack_pending) == (0, 0)


class Failing:
    """Fails at the first attempt of each message."""

    def __init__(self):
        self.attempts = []

    async def handle(self, msg):
        self.attempts.append((msg.json(), msg.attempt))
        if msg.attempt == 1:
            raise ConnectionError

    def done(self):
        """Which messages were handled, and how often."""
        return Counter(body for body, attempt in self.attempts if attempt > 1)


@pytest.mark.timeout(60)
async def test_a_worker_killed_while_its_messages_wait_leaves_them_to_the_others(server, sb, link):
    await sb.declare(StreamOptions("MAIL", ["mail.>"]))
    call = [WORKER, server.url, "mail.>", "mailer", link, "2.0"]
    process = await asyncio.create_subprocess_exec(sys.executable, *call, stdout=asyncio.subprocess.PIPE)
    try:
        await sb.enqueue_many(Entry("mail.ann", number) for number in range(MANY))

        async def all_wait():
            return await settled(sb) and (await sb.streams.info(LATER)).messages == MANY

        async def there():
            return LATER in [name async for name in sb.streams.names()]

        await eventually(there, within=20)
        await eventually(all_wait, within=20)
    finally:
        process.kill()
        await process.wait()
    failing = Failing()
    await sb.consume("mail.>", failing.handle, durable="mailer", reschedule_after=0.2)
    await eventually(lambda: len(failing.done()) == MANY, within=20)
    assert set(failing.attempts) == {(number, 2) for number in range(MANY)}
    await eventually(lambda: emptied(sb), within=20)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("back_after", [0.0, 2.0], ids=["before it is due", "after it was due"])
async def test_a_server_killed_while_messages_wait_brings_them_back(server, sb, back_after):
    await sb.declare(StreamOptions("MAIL", ["mail.>"]))
    failing = Failing()
    await sb.consume("mail.>", failing.handle, durable="mailer", backoff=(1.5,), reschedule_after=0.2, ack_wait=5.0)
    await sb.enqueue_many(Entry("mail.ann", number) for number in range(MANY))
    await eventually(lambda: sb.stats.rescheduled == MANY, within=20)
    await server.kill()
    await asyncio.sleep(back_after)
    await server.start()
    await eventually(lambda: len(failing.done()) == MANY, within=30)
    await eventually(lambda: emptied(sb), within=20)
    await eventually(lambda: settled(sb), within=20)


@pytest.mark.timeout(60)
async def test_a_server_frozen_while_messages_fail_loses_none(server, sb):
    await sb.declare(StreamOptions("MAIL", ["mail.>"]))
    failing, begun = Failing(), asyncio.Event()

    async def handle(msg):
        if len(failing.attempts) == MANY // 2:
            begun.set()
            await asyncio.sleep(0.2)  # the server is frozen by now
        await failing.handle(msg)

    worker = await sb.consume(
        "mail.>", handle, durable="mailer", backoff=(0.5,), reschedule_after=0.2, ack_wait=3.0, max_deliver=20
    )
    await sb.enqueue_many(Entry("mail.ann", number) for number in range(MANY))
    await asyncio.wait_for(begun.wait(), 20)
    await server.freeze()
    await asyncio.sleep(4.0)
    await server.thaw()
    await eventually(lambda: len(failing.done()) == MANY, within=30)
    await eventually(lambda: settled(sb), within=20)
    await eventually(lambda: emptied(sb), within=20)
    await worker.drain()
