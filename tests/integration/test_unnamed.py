"""Consumers without a name: the server removes one that nobody asks, and we ask as long as we are there."""

import asyncio

import pytest

from broker import Entry, StreamOptions
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
    await sb.enqueue("a.x", 1)
    await asyncio.sleep(THRESHOLD * 2)
    [info] = await only_consumer(sb)
    assert info.name == worker.consumer
    await worker.resume()
    await eventually(lambda: seen == [0, 1], within=20)


async def test_a_busy_worker_keeps_its_consumer(stream_broker):
    sb, seen, done = stream_broker, [], asyncio.Event()

    async def handle(msg):
        seen.append((msg.json(), msg.attempt))
        await done.wait()

    await sb.declare(StreamOptions("S", ["a.*"]))
    worker = await sb.consume("a.*", handle, concurrency=1)
    await sb.enqueue_many(Entry("a.x", n) for n in range(3))
    await eventually(lambda: seen)
    await asyncio.sleep(THRESHOLD * 2)
    [info] = await only_consumer(sb)
    assert info.name == worker.consumer
    done.set()
    await eventually(lambda: seen == [(0, 1), (1, 1), (2, 1)], within=20)


async def test_a_reader_that_takes_its_time_keeps_its_consumer(stream_broker):
    sb = stream_broker
    await sb.declare(StreamOptions("S", ["a.*"]))
    await sb.enqueue_many(Entry("a.x", n) for n in range(3))
    async with sb.read("a.*", until="end") as reader:
        first = await anext(reader)
        [before] = await only_consumer(sb)
        await asyncio.sleep(THRESHOLD * 2)
        assert [info.name for info in await only_consumer(sb)] == [before.name]
        assert [first.json()] + [msg.json() async for msg in reader] == [0, 1, 2]
