"""How consuming comes to an end: what is finished, what is given back, and by when."""

import asyncio

from broker import Entry, StreamBroker
from broker.backends.memory import MemoryBackend, MemoryHub
from broker.testing.waiting import eventually
from tests.unit.test_consuming import broker_with_stream


async def test_draining_from_inside_a_handler_does_not_wait_for_itself():
    sb = await broker_with_stream()
    done = asyncio.Event()

    async def last(_msg):
        await consumption.drain(timeout=5)
        done.set()

    async with sb:
        consumption = await sb.consume("s.a", last, durable="w")
        await sb.enqueue("s.a", 1)
        await asyncio.wait_for(done.wait(), 3)
        await eventually(lambda: sb.stats.acked == 1)


async def test_a_drain_has_one_deadline_for_everything():
    class Stuck(MemoryBackend):
        stuck = False

        async def open_consumer(self, options):
            if self.stuck:
                await asyncio.Event().wait()
            return await super().open_consumer(options)

    backend = Stuck(MemoryHub())
    sb = await broker_with_stream(backend)
    running = asyncio.Event()

    async def never_done(_msg):
        running.set()
        await asyncio.Event().wait()

    async with sb:
        consumption = await sb.consume("s.a", never_done, durable="w")
        await sb.enqueue("s.a", 1)
        await running.wait()
        backend.stuck = True
        await sb.consumers.delete("S", "w")
        await asyncio.sleep(0.05)
        loop = asyncio.get_running_loop()
        began = loop.time()
        await consumption.drain(timeout=3)
        assert 2.9 < loop.time() - began < 5.5, "not three seconds for the loop and three more for the handler"


async def test_draining_the_broker_with_a_deadline_cancels_what_still_runs_and_gives_it_back():
    hub = MemoryHub()
    sb = await broker_with_stream(MemoryBackend(hub))
    watcher = StreamBroker(MemoryBackend(hub))
    started, outcome = asyncio.Event(), []

    async def long(_msg):
        started.set()
        try:
            await asyncio.sleep(20)
        except asyncio.CancelledError:
            outcome.append("cancelled")
            raise

    await sb.consume("s.a", long, durable="w")
    await sb.enqueue("s.a", 1)
    await started.wait()
    await sb.drain(timeout=0.2)
    assert outcome == ["cancelled"]
    async with watcher, watcher.pull("s.a", durable="w", max_ack_pending=256) as pulled:
        assert await pulled.next(timeout=1) is not None


async def test_a_second_drain_waits_for_the_first_instead_of_cutting_it_short():
    sb = await broker_with_stream()
    started, finished = asyncio.Event(), []

    async def handle(msg):
        started.set()
        await asyncio.sleep(0.3)
        finished.append(msg.json())

    await sb.consume("s.a", handle, durable="w")
    await sb.enqueue("s.a", 1)
    await started.wait()
    await asyncio.gather(sb.drain(), sb.drain())
    assert finished == [1]


async def test_draining_the_broker_from_inside_a_handler_does_not_wait_for_itself():
    sb = await broker_with_stream()
    done = asyncio.Event()

    async def last(_msg):
        await sb.drain(timeout=10)
        done.set()

    await sb.consume("s.a", last, durable="w")
    await sb.enqueue("s.a", 1)
    await asyncio.wait_for(done.wait(), 3)


async def test_what_was_fetched_ahead_is_given_back_when_the_worker_leaves():
    hub = MemoryHub()
    sb = await broker_with_stream(MemoryBackend(hub))
    await sb.enqueue_many(Entry("s.a", n) for n in range(300))
    seen, hold, stuck = [], asyncio.Event(), asyncio.Event()

    async def handle(msg):
        if len(seen) >= 150:
            stuck.set()
            await hold.wait()
        seen.append(msg.sequence)

    consumption = await sb.consume("s.a", handle, durable="w", concurrency=2)
    await stuck.wait()
    await asyncio.sleep(0.05)
    ahead = consumption.in_hand
    await sb.aclose()
    async with StreamBroker(MemoryBackend(hub)) as after:
        got = []
        await after.consume("s.a", lambda msg: got.append(msg.sequence), durable="w")
        await eventually(lambda: len(set(seen) | set(got)) == 300)
    assert ahead >= 2
    assert not set(seen) & set(got)


async def test_draining_has_one_deadline_for_handlers_and_for_the_last_flush(monkeypatch):
    sb = await broker_with_stream()
    async with sb:
        running, flushes = asyncio.Event(), []

        async def handle(_msg):
            running.set()
            await asyncio.sleep(60)

        async def flush(*, timeout):
            flushes.append(timeout)

        consumption = await sb.consume("s.a", handle, durable="w")
        await sb.enqueue("s.a", 1)
        await running.wait()
        monkeypatch.setattr(consumption._backend, "flush", flush)
        await consumption.drain(timeout=0.5)
        await sb.drain(timeout=0.5)
        assert len(flushes) == 2
        assert max(flushes) <= 0.5
