"""What a real server says instead of a message, on every way to take messages: each goes on, or says what happened."""

import asyncio
from contextlib import asynccontextmanager, suppress
from functools import partial

import pytest
import pytest_asyncio

from broker import BrokerClosed, ConsumerGone, Entry, StreamBroker, StreamNotFound, StreamOptions
from broker.testing.plugin import remove_streams
from broker.testing.waiting import eventually

pytestmark = pytest.mark.nats

SECOND = 1_000_000_000


@pytest_asyncio.fixture
async def connect(nats_server, link):
    opened = []

    async def connect():
        opened.append(await StreamBroker.connect(nats_server.url, link=link))
        return opened[-1]

    yield connect
    for each in opened:
        await each.aclose()
    await remove_streams(nats_server.url)


@pytest_asyncio.fixture
async def sb(connect):
    sb = await connect()
    await sb.declare(StreamOptions("S", ["s.>"]))
    return sb


async def consumer(sb, **config):
    """A consumer with limits that we never set ourselves."""
    config = {"name": "w", "durable_name": "w", "ack_policy": "explicit", "ack_wait": 30 * SECOND, **config}
    api = sb._streams._admin._api
    await api.call("CONSUMER.CREATE.S.w", {"stream_name": "S", "config": config, "action": "create"})


class Taking:
    """One way to take messages, at work."""

    def __init__(self, worker):
        self.seen = []
        self.events = []
        self.worker = worker
        self.task = None
        self._listening = asyncio.create_task(self._listen(worker.events()))

    async def _listen(self, events):
        async for event in events:
            self.events.append(event.kind)

    async def end(self):
        for task in (self.task, self._listening):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])


@asynccontextmanager
async def pulling(sb, take, **options):
    async with sb.pull("s.a", durable="w", stream="S", **options) as puller:
        taking = Taking(puller)
        taking.task = asyncio.create_task(take(puller, taking))
        try:
            yield taking
        finally:
            await taking.end()


async def by_fetch(puller, taking):
    while True:
        for msg in await puller.fetch(10, timeout=5):
            await msg.ack()
            taking.seen.append(msg.json())


async def by_next(puller, taking):
    while True:
        msg = await puller.next(timeout=5)
        if msg is not None:
            await msg.ack()
            taking.seen.append(msg.json())


async def by_iterating(puller, taking):
    async for msg in puller:
        await msg.ack()
        taking.seen.append(msg.json())


@asynccontextmanager
async def consuming(sb, **options):
    seen = []
    worker = await sb.consume(
        "s.a", lambda msg: seen.append(msg.json()), durable="w", stream="S", dead_letter=False, **options
    )
    taking = Taking(worker)
    taking.seen = seen
    try:
        yield taking
    finally:
        await taking.end()
        await worker.drain()


FLAVOURS = {
    "fetch": partial(pulling, take=by_fetch),
    "next": partial(pulling, take=by_next),
    "iterate": partial(pulling, take=by_iterating),
    "consume": consuming,
}
every_flavour = pytest.mark.parametrize("flavour", FLAVOURS.values(), ids=FLAVOURS)
pullers = pytest.mark.parametrize("flavour", list(FLAVOURS.values())[:3], ids=list(FLAVOURS)[:3])


async def waiting(sb):
    """Whether the server has a request of ours."""
    return (await sb.consumers.info("S", "w")).waiting > 0


async def store(sb, *numbers):
    await sb.enqueue_many(Entry("s.a", number) for number in numbers)


@every_flavour
async def test_requests_that_expire_are_made_again_without_a_word(sb, flavour):
    """408, again and again: nobody is told, and what comes afterwards arrives."""
    await consumer(sb, max_expires=SECOND // 2)
    async with flavour(sb, ensure="bind") as taking:
        await asyncio.sleep(1.7)
        await store(sb, 1, 2)
        await eventually(lambda: taking.seen == [1, 2])
        assert set(taking.events) <= {"limits_exceeded"}


@every_flavour
async def test_a_limit_on_the_size_of_a_request_is_kept_to(sb, flavour):
    """409 Exceeded MaxRequestBatch: told once, then asked within it."""
    await consumer(sb, max_batch=1)
    await store(sb, *range(8))
    async with flavour(sb, ensure="bind") as taking:
        await eventually(lambda: taking.seen == list(range(8)), within=10)
        assert taking.events.count("limits_exceeded") <= 2


@every_flavour
async def test_a_request_beyond_max_waiting_is_noticed_by_its_silence_and_made_again(sb, connect, flavour):
    """The server says nothing (2.15.1) or 409 Exceeded MaxWaiting; either is told, and whoever it hit asks again."""
    await consumer(sb, max_waiting=1)
    async with flavour(sb, ensure="bind") as first:
        await eventually(lambda: waiting(sb))
        async with flavour(await connect(), ensure="bind") as second:
            unserved = {"heartbeats_missed", "limits_exceeded"}
            await eventually(lambda: unserved & {*first.events, *second.events}, within=15)
            for number in range(20):
                await store(sb, number)
            await eventually(lambda: len(first.seen) + len(second.seen) >= 20, within=10)
            assert sorted(first.seen + second.seen) == list(range(20))


@every_flavour
async def test_a_limit_on_the_bytes_of_a_request_is_kept_to(sb, flavour):
    """409 Exceeded MaxRequestMaxBytes: told once, then asked within it."""
    await consumer(sb, max_bytes=600)
    await store(sb, *range(8))
    async with flavour(sb, ensure="bind", max_bytes=10_000) as taking:
        await eventually(lambda: taking.seen == list(range(8)), within=10)
        assert taking.events.count("limits_exceeded") == 1


@every_flavour
async def test_few_bytes_at_a_time_are_not_exceeded_and_nothing_stands_still(sb, flavour):
    """409 Message Size Exceeds MaxBytes: the next request takes what did not fit in."""
    await sb.enqueue_many(Entry("s.a", ["x" * 500, number]) for number in range(20))
    await sb.enqueue("s.a", ["x" * 5000, 20])
    await sb.enqueue("s.a", ["x" * 500, 21])
    async with flavour(sb, max_bytes=1500) as taking:
        await eventually(lambda: [number for _, number in taking.seen] == list(range(22)), within=10)
        assert taking.events.count("limits_exceeded") == 1  # for the one that is larger than any request


async def test_no_more_bytes_are_asked_for_than_fit_in(sb):
    await sb.enqueue_many(Entry("s.a", b"x" * 1000) for _ in range(10))
    async with sb.pull("s.a", durable="w") as puller:
        source = puller._source
        first = await source.fetch(10, timeout=5, max_bytes=3500)
        await asyncio.sleep(0.3)
        info = await sb.consumers.info("S", "w")
        assert sum(len(each.data) for each in first) <= 3500
        assert info.ack_pending <= 2 * len(first), "as much again is on its way, and no more"


@pullers
async def test_a_consumer_deleted_meanwhile_is_an_error_at_once(sb, flavour):
    """409 Consumer Deleted."""
    async with flavour(sb) as taking:
        await eventually(lambda: waiting(sb))
        await sb.consumers.delete("S", "w")
        async with asyncio.timeout(8):
            with pytest.raises(ConsumerGone):
                await taking.task
        await eventually(lambda: taking.events[-1:] == ["consumer_deleted"])


@pullers
async def test_a_consumer_deleted_before_asking_is_an_error_soon(sb, flavour):
    """Nobody responds: found out by looking."""
    async with flavour(sb) as taking:
        await eventually(lambda: waiting(sb))
        taking.task.cancel()
        with suppress(asyncio.CancelledError):
            await taking.task
        await sb.consumers.delete("S", "w")
        async with asyncio.timeout(8):
            with pytest.raises(ConsumerGone):
                await taking.worker.fetch(1, timeout=8)


async def test_a_consumer_deleted_under_consume_is_made_again(sb):
    async with consuming(sb) as taking:
        await store(sb, 1)
        await eventually(lambda: taking.seen == [1])
        await sb.consumers.delete("S", "w")
        await store(sb, 2)
        await eventually(lambda: taking.seen[-1] == 2, within=10)
        wanted = [kind for kind in taking.events if kind.startswith("consumer_")]
        assert wanted == ["consumer_deleted", "consumer_recreated"]


@pullers
async def test_a_stream_deleted_meanwhile_is_an_error(sb, flavour):
    """409 Stream Deleted, or nobody responds any more."""
    async with flavour(sb) as taking:
        await eventually(lambda: waiting(sb))
        await sb.streams.delete("S")
        async with asyncio.timeout(10):
            with pytest.raises((StreamNotFound, ConsumerGone)):
                await taking.task
        await eventually(lambda: set(taking.events[-1:]) & {"stream_deleted", "consumer_deleted"})


async def test_a_stream_deleted_under_consume_ends_it(sb):
    async with consuming(sb) as taking:
        await eventually(lambda: waiting(sb))
        await sb.streams.delete("S")
        async with asyncio.timeout(10):
            with pytest.raises(StreamNotFound):
                await taking.worker.wait()
        await eventually(lambda: taking.events[-1:] == ["stream_deleted"])


@pullers
async def test_closing_the_connection_ends_whoever_waits(sb, connect, flavour):
    watcher = await connect()
    async with flavour(sb) as taking:
        await eventually(lambda: waiting(watcher))
        await sb.aclose()
        async with asyncio.timeout(10):
            with suppress(BrokerClosed):
                await taking.task
        assert taking.task.done()


@every_flavour
async def test_a_thousand_messages_leave_no_request_behind(sb, connect, flavour):
    """What is left on the server when it is over: nothing."""
    watcher = await connect()
    await store(sb, *range(1000))
    async with flavour(sb) as taking:
        await eventually(lambda: len(taking.seen) == 1000, within=15)
    await eventually(lambda: nothing_waits(watcher), within=10)
    assert (await watcher.consumers.info("S", "w")).ack_pending == 0


async def nothing_waits(sb):
    return not await waiting(sb)
