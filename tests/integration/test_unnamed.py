"""Consumers without a name: the server removes one that nobody asks, and we ask as long as we are there."""

import asyncio

import pytest

from broker import StreamOptions
from broker.contracts import consumer_options
from broker.testing.waiting import eventually

pytestmark = pytest.mark.nats

THRESHOLD = 3.0


@pytest.fixture(autouse=True)
def soon_removed(monkeypatch):
    monkeypatch.setattr(consumer_options, "UNNAMED_THRESHOLD", THRESHOLD)


async def only_consumer(broker):
    return [info async for info in broker.consumers.list("S")]


async def test_a_paused_worker_keeps_its_consumer(stream_broker):
    sb, seen = stream_broker, []
    await sb.declare(StreamOptions("S", ["a.*"], retention="interest"))
    worker = await sb.consume("a.*", lambda msg: seen.append(msg.json()))
    await sb.enqueue("a.x", 0)
    await eventually(lambda: seen)
    await worker.pause()
    await asyncio.sleep(THRESHOLD * 2)
    assert [info.name for info in await only_consumer(sb)] == [worker.consumer]
    await sb.enqueue("a.x", 1)
    await worker.resume()
    await eventually(lambda: seen == [0, 1], within=20)


async def test_an_idle_puller_keeps_its_consumer(stream_broker):
    sb = stream_broker
    await sb.declare(StreamOptions("S", ["a.*"], retention="interest"))
    async with sb.pull("a.*") as puller:
        [before] = await only_consumer(sb)
        await asyncio.sleep(THRESHOLD * 2)
        assert [info.name for info in await only_consumer(sb)] == [before.name]
        await sb.enqueue("a.x", 0)
        [msg] = await puller.fetch(1, timeout=20)
        await msg.ack()
        assert (msg.json(), msg.attempt) == (0, 1)
