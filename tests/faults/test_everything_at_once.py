"""SIGKILL and restart, twice, under every verb at the same time."""

import asyncio
from collections import Counter

import pytest

from broker import ConnectionLost, NoResponders, RequestTimeout, StreamOptions
from broker.testing.waiting import eventually

pytestmark = [pytest.mark.nats, pytest.mark.fault]


class Room:
    """Publishes, asks and enqueues in three loops of its own, and keeps the books."""

    def __init__(self, sb):
        self.sb = sb
        self.ticks = 0
        self.replies = 0
        self.asked_in_vain = 0
        self.stored = []

    async def tick(self):
        while True:
            self.sb.publish_nowait("battle.1.state", self.ticks)
            self.ticks += 1
            await asyncio.sleep(1 / 60)

    async def ask(self):
        while True:
            try:
                reply = await self.sb.request("battle.1.ask", self.replies, timeout=1)
            except (ConnectionLost, NoResponders, RequestTimeout):
                self.asked_in_vain += 1
            else:
                assert reply.json() == self.replies
                self.replies += 1
            await asyncio.sleep(0.005)

    async def store(self):
        while True:
            number = len(self.stored)
            await self.sb.enqueue("s.battle", number, idempotency_key=f"battle-{number}", timeout=30)
            self.stored.append(number)


class Worker:
    """Hears, answers and works off what the room does."""

    def __init__(self):
        self.states = []
        self.worked = Counter()

    async def start(self, sb):
        await sb.subscribe("battle.*.state", lambda msg: self.states.append(msg.json()))
        await sb.respond("battle.*.ask", self.answer)
        await sb.consume("s.battle", self.work, durable="w", ack_wait=5)

    async def answer(self, msg):
        return msg.json()

    async def work(self, msg):
        self.worked[msg.json()] += 1


@pytest.mark.slow
@pytest.mark.timeout(90)
async def test_two_kills_under_every_verb_lose_nothing_that_was_stored_and_stop_nobody(server, connect):
    async with connect() as ours, connect() as theirs:
        await ours.declare(StreamOptions("S", ["s.>"]))
        room, worker = Room(ours), Worker()
        await worker.start(theirs)
        loops = [asyncio.create_task(each) for each in (room.tick(), room.ask(), room.store())]
        for times in (1, 2):
            await goes_on(room, worker)
            await server.kill()
            await asyncio.sleep(0.2)
            await server.start()
            for sb in (ours, theirs):
                await eventually(lambda sb=sb, times=times: sb.stats.reconnects == times, within=15)
        await goes_on(room, worker)
        for each in loops:
            each.cancel()
        ended = await asyncio.gather(*loops, return_exceptions=True)
        assert [type(each) for each in ended] == [asyncio.CancelledError] * 3
        await eventually(lambda: set(room.stored) <= set(worker.worked), within=15)
        assert (await ours.streams.info("S")).messages in {len(room.stored), len(room.stored) + 1}
        assert worker.states == sorted(set(worker.states))
        assert ours.stats.dropped_outbound == 0


async def goes_on(room, worker):
    """Each of the five moves forward."""

    def now():
        return room.replies, len(room.stored), len(worker.states), len(worker.worked), room.ticks

    before = now()
    await eventually(lambda: all(new >= old + 5 for old, new in zip(before, now(), strict=True)), within=20)
