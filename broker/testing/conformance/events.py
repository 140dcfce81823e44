"""Events: what happens to a consumer is told to whoever listens, and nobody has to."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from broker import ConsumerEvent, ConsumerEventKind, ConsumerGone, StreamNotFound
from broker.testing.conformance.scene import WORKER, Conformance, a_stream, bodies, listed
from broker.testing.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from broker.testing.conformance.scene import Connect


async def next_of(events: AsyncIterator[ConsumerEvent], *wanted: str) -> list[str]:
    """The next so many kinds of those wanted; a server may tell more than that."""
    kinds: list[str] = []
    async with asyncio.timeout(15):
        while len(kinds) < len(wanted):
            kinds += [event.kind for event in [await anext(events)] if event.kind in wanted]
    return kinds


class EventConformance(Conformance):
    """Promises of ``events()``."""

    async def test_a_deleted_consumer_is_told_and_that_it_was_made_again(self, connect: Connect) -> None:
        sb, seen = await connect(), list[Any]()
        name = await a_stream(sb)
        worker = await sb.consume(f"{name}.a", seen.append, durable=WORKER)
        events = worker.events()
        await sb.consumers.delete(name, WORKER)
        told = ["consumer_deleted", "consumer_recreated"]
        assert await next_of(events, *told) == told
        await sb.enqueue(f"{name}.a", 1)
        await eventually(lambda: bodies(seen) == [1])

    async def test_an_event_says_whom_it_is_about(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        worker = await sb.consume(f"{name}.a", print, durable=WORKER)
        events = worker.events()
        await worker.pause()
        await worker.resume()
        async with asyncio.timeout(5):
            first, second = await anext(events), await anext(events)
        assert first == ConsumerEvent(ConsumerEventKind.PAUSED, name, WORKER)
        assert second.kind is ConsumerEventKind.RESUMED

    async def test_pausing_twice_is_one_pause(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        worker = await sb.consume(f"{name}.a", print, durable=WORKER)
        events = worker.events()
        for _ in range(2):
            await worker.pause()
        for _ in range(2):
            await worker.resume()
        await worker.drain()
        assert [event.kind for event in await listed(events)] == ["paused", "resumed"]

    async def test_they_end_with_the_consumption(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        worker = await sb.consume(f"{name}.a", print, durable=WORKER)
        listening = asyncio.create_task(listed(worker.events()))
        await asyncio.sleep(0)
        await worker.drain()
        async with asyncio.timeout(5):
            assert await listening == []
            assert await listed(worker.events()) == []

    async def test_everybody_who_listens_is_told(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        worker = await sb.consume(f"{name}.a", print, durable=WORKER)
        both = [worker.events(), worker.events()]
        await worker.pause()
        assert [await next_of(each, "paused") for each in both] == [["paused"], ["paused"]]

    async def test_who_does_not_read_keeps_the_newest_and_the_rest_is_counted(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        worker = await sb.consume(f"{name}.a", print, durable=WORKER)
        events = worker.events()
        for _ in range(150):
            await worker.pause()
            await worker.resume()
        await worker.drain()
        kept = [event.kind for event in await listed(events)]
        assert kept == ["paused", "resumed"] * 128
        assert (events.dropped, sb.stats.dropped_events) == (44, 44)

    async def test_a_deleted_stream_is_told_before_the_end(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        worker = await sb.consume(f"{name}.a", print, durable=WORKER)
        events = worker.events()
        await sb.streams.delete(name)
        async with asyncio.timeout(15):
            kinds = [event.kind for event in await listed(events)]
            with pytest.raises(StreamNotFound):
                await worker.wait()
        assert kinds[-1] == "stream_deleted"

    async def test_a_puller_tells_them_too(self, connect: Connect) -> None:
        sb = await connect()
        name = await a_stream(sb)
        async with sb.pull(f"{name}.a", durable=WORKER) as puller:
            events = puller.events()
            fetching = asyncio.create_task(puller.fetch(1, timeout=15))
            await asyncio.sleep(0.05)
            await sb.consumers.delete(name, WORKER)
            with pytest.raises(ConsumerGone):
                await fetching
        assert [event.kind for event in await listed(events)][-1] == "consumer_deleted"
