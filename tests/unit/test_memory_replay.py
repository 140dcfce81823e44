"""What the memory twin holds back: messages that are not due yet, and bytes that do not fit in."""

import asyncio

import pytest

from broker.backends.memory import ManualClock, MemoryBackend, MemoryHub
from broker.contracts.envelopes import Record
from broker.contracts.options import ConsumerOptions, StreamOptions


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
async def backend(clock):
    backend = MemoryBackend(MemoryHub(clock=clock))
    await backend.create_stream(StreamOptions("S", ["s.>"]))
    yield backend
    await backend.close()


async def store(backend, *bodies):
    for body in bodies:
        await backend.append(Record("s.a", body, None, f"id-{backend.stats.published}-{id(body)}-{body}"), timeout=1)


async def turns():
    for _ in range(10):
        await asyncio.sleep(0)


async def test_original_speed_keeps_the_pauses_between_messages(backend, clock):
    for number, pause in enumerate((5, 2, 0)):
        await store(backend, b"%d" % number)
        clock.advance(pause)
    source = await backend.open_consumer(ConsumerOptions(filters=["s.a"], acks=False, replay="original"))
    assert [each.data for each in await source.fetch(10, timeout=60)] == [b"0"]
    fetching = asyncio.ensure_future(source.fetch(10, timeout=60))
    await turns()
    clock.advance(4.9)
    await turns()
    assert not fetching.done()
    clock.advance(0.2)
    assert [each.data for each in await fetching] == [b"1"]
    fetching = asyncio.ensure_future(source.fetch(10, timeout=60))
    await turns()
    clock.advance(2.1)
    assert [each.data for each in await fetching] == [b"2"]
    await source.close()
    assert clock.timers == 0


async def test_what_is_handed_out_again_does_not_wait_for_the_original_speed(backend, clock):
    await store(backend, b"0")
    clock.advance(1000)
    await store(backend, b"1")
    source = await backend.open_consumer(ConsumerOptions(durable="w", filters=["s.a"], replay="original"))
    (first,) = await source.fetch(10, timeout=60)
    await source.nak(first, delay=0)
    (again,) = await source.fetch(10, timeout=60)
    assert (again.data, again.attempt) == (b"0", 2)
    await source.close()


@pytest.mark.parametrize(
    ("sizes", "max_bytes", "first"),
    [((10, 10, 10), 20, 2), ((10, 10, 10), 25, 2), ((10, 10, 10), 30, 3), ((50, 1), 20, 1), ((1, 50), 20, 1)],
)
async def test_bytes_that_do_not_fit_in_come_with_the_next_request(backend, sizes, max_bytes, first):
    await store(backend, *(b"%d" % index + b"x" * (size - 1) for index, size in enumerate(sizes)))
    source = await backend.open_consumer(ConsumerOptions(durable="w", filters=["s.a"]))
    got = await source.fetch(10, timeout=60, max_bytes=max_bytes)
    assert len(got) == first
    while len(got) < len(sizes):
        more = await source.fetch(10, timeout=60, max_bytes=max_bytes)
        assert all(each.attempt == 1 for each in more)
        got = [*got, *more]
    assert [len(each.data) for each in got] == list(sizes)
    await source.close()
