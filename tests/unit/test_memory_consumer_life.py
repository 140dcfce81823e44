"""How consumers of the memory backend come, change and end: what nats-server 2.15 was seen to do."""

import asyncio

import pytest

from broker.backends.memory import MemoryBackend, MemoryHub
from broker.contracts.errors import (
    BrokerClosed,
    ConfigDrift,
    ConsumerNotFound,
    NoStream,
    StreamNotFound,
)
from broker.contracts.options import StreamOptions
from tests.taking import now, opened, put, seen, turns


@pytest.fixture
async def backend(clock):
    backend = MemoryBackend(MemoryHub(clock=clock))
    await backend.create_stream(StreamOptions("S", ["s.>"]))
    yield backend
    await backend.close()
    assert clock.timers == 0


async def test_no_stream_no_consumer(backend):
    with pytest.raises(NoStream):
        await opened(backend, filters=["nowhere.>"])
    with pytest.raises(NoStream):
        await opened(backend, filters=["s.a", "nowhere.>"], stream="S")
    with pytest.raises(StreamNotFound):
        await opened(backend, stream="T")
    with pytest.raises(ConsumerNotFound):
        await opened(backend, ensure="bind")
    await opened(backend)
    assert (await opened(backend, ensure="bind", ack_wait=1)).consumer == "d"


async def test_other_settings_are_drift_and_update_applies_them(backend):
    await put(backend, "s.a", "s.b", "s.b")
    source = await opened(backend, queue="q")
    await source.ack(await now(source, 1))
    assert (await opened(backend, queue="q", start="new")).consumer == "d"
    for change, field in (
        ({"ack_wait": 5}, "ack_wait"),
        ({"max_ack_pending": 1}, "max_ack_pending"),
        ({"filters": ["s.a"]}, "filters"),
        ({"acks": False}, "acks"),
        ({"queue": "other"}, "queue"),
    ):
        with pytest.raises(ConfigDrift) as caught:
            await opened(backend, **{"queue": "q", **change})
        assert list(caught.value.differences) == [field]
    await opened(backend, queue="q", ensure="update", max_ack_pending=1, filters=["s.b"])
    info = await backend.consumer_info("S", "d")
    assert (info.config.max_ack_pending, info.config.filters, info.pending, info.ack_floor) == (1, ("s.b",), 2, 1)
    assert (info.config.stream, info.config.ensure, info.config.start) == ("S", "verify", "first")
    assert seen(await now(source)) == [(2, 1)]
    with pytest.raises(ConfigDrift) as refused:
        await opened(backend, queue="q", ensure="update", acks=False)
    assert list(refused.value.differences) == ["acks"]


async def test_an_unnamed_consumer_leaves_with_its_source(backend):
    source = await opened(backend, durable=None)
    assert len([each async for each in backend.list_consumers("S")]) == 1
    await source.close()
    await source.close()
    assert [each async for each in backend.list_consumers("S")] == []


async def test_an_unnamed_consumer_ends_some_time_after_its_connection(backend, clock):
    await put(backend, "s.a")
    leaving = MemoryBackend(backend._hub)
    source = await opened(leaving, durable=None, inactive_threshold=20)
    name = source.consumer
    clock.advance(100)
    assert seen(await now(source)) == [(1, 1)]
    await leaving.close()
    await source.close()
    clock.advance(19)
    assert (await backend.consumer_info("S", name)).name == name
    clock.advance(1)
    with pytest.raises(ConsumerNotFound):
        await backend.consumer_info("S", name)
    named = await opened(backend)
    await named.close()
    clock.advance(1000)
    assert [each.name async for each in backend.list_consumers("S")] == ["d"]


async def test_deleting_a_consumer_ends_its_fetches_at_once(backend):
    await put(backend, "s.a", "s.b")
    source = await opened(backend)
    await source.ack(await now(source, 1))
    await now(source)
    waiting = asyncio.ensure_future(source.fetch(1, timeout=100))
    await turns()
    await backend.delete_consumer("S", "d")
    with pytest.raises(ConsumerNotFound):
        await waiting
    with pytest.raises(ConsumerNotFound):
        await source.fetch(1, timeout=1)
    with pytest.raises(ConsumerNotFound):
        await backend.delete_consumer("S", "d")
    assert source.resume_sequence == 2
    again = await opened(backend, start=source.resume_sequence)
    assert seen(await now(again)) == [(2, 1)]


async def test_deleting_the_stream_ends_its_fetches_at_once(backend):
    source = await opened(backend)
    waiting = asyncio.ensure_future(source.fetch(1, timeout=100))
    await turns()
    await backend.delete_stream("S")
    with pytest.raises(StreamNotFound):
        await waiting
    with pytest.raises(StreamNotFound):
        await source.fetch(1, timeout=1)
    assert source.resume_sequence == 1
    await source.close()


async def test_closing_ends_a_fetch_and_leaves_settling_possible(backend):
    await put(backend, "s.a")
    source = await opened(backend)
    held = await now(source)
    waiting = asyncio.ensure_future(source.fetch(1, timeout=100))
    await turns()
    await source.close()
    with pytest.raises(BrokerClosed):
        await waiting
    with pytest.raises(BrokerClosed):
        await source.fetch(1, timeout=1)
    await source.confirm_ack(held[0], timeout=1)
    assert (await backend.consumer_info("S", "d")).ack_floor == 1


async def test_closing_the_connection_ends_fetches_and_settlements(clock):
    hub = MemoryHub(clock=clock)
    backend, other = MemoryBackend(hub), MemoryBackend(hub)
    await backend.create_stream(StreamOptions("S", ["s.>"]))
    await put(backend, "s.a")
    source, theirs = await opened(backend, ack_wait=5), await opened(other, ack_wait=5)
    held = await now(source)
    waiting = asyncio.ensure_future(source.fetch(1, timeout=100))
    await turns()
    await backend.close()
    with pytest.raises(BrokerClosed):
        await waiting
    for refused in (source.ack(held), source.fetch(1, timeout=1), source.nak(held[0], delay=0), source.extend(held)):
        with pytest.raises(BrokerClosed):
            await refused
    await source.close()
    clock.advance(5)
    assert seen(await now(theirs)) == [(1, 2)]
    await other.close()
    assert clock.timers == 0


async def test_the_loops_own_time_drives_it_by_default():
    backend = MemoryBackend(MemoryHub())
    await backend.create_stream(StreamOptions("S", ["s.>"]))
    await put(backend, "s.a")
    source = await opened(backend, ack_wait=0.05)
    assert seen(await now(source)) == [(1, 1)]
    assert seen(await source.fetch(1, timeout=5)) == [(1, 2)]
    assert await source.fetch(1, timeout=0.01) == []
    await backend.close()


async def test_a_stream_made_anew_has_nothing_to_resume(backend):
    source = await opened(backend)
    await put(backend, "s.a", "s.b")
    await source.ack(await source.fetch(2, timeout=1))
    assert source.resume_sequence == 3
    await backend.delete_stream("S")
    await backend.create_stream(StreamOptions("S", ["s.>"]))
    assert source.resume_sequence is None
