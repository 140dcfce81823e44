"""Reading up to an end while messages are still on their way: the tail is not cut off."""

import pytest

from broker import Entry, StreamOptions

pytestmark = pytest.mark.nats


@pytest.mark.parametrize("until", ["end", 500])
async def test_a_bounded_read_returns_every_message_again_and_again(stream_broker, until):
    await stream_broker.declare(StreamOptions("S", ["s.*"]))
    await stream_broker.enqueue_many(Entry(f"s.{n % 2}", b"x" * 600) for n in range(500))
    for _ in range(8):
        async with stream_broker.read("s.*", until=until) as stored:
            assert len([msg async for msg in stored]) == 500
    async with stream_broker.read("s.1", until=until) as stored:
        assert len([msg async for msg in stored]) == 250


async def test_a_bounded_read_of_nothing_ends(stream_broker):
    await stream_broker.declare(StreamOptions("S", ["s.*"]))
    async with stream_broker.read("s.*", until="end") as stored:
        assert [msg async for msg in stored] == []
    await stream_broker.enqueue("s.a", 1)
    async with stream_broker.read("s.b", until="end") as stored:
        assert [msg async for msg in stored] == []
    async with stream_broker.read("s.*", start=2, until="end") as stored:
        assert [msg async for msg in stored] == []
