"""A watch beside a server whose count of what waits is short for a moment, as it is while a value replaces another."""

import asyncio
from dataclasses import replace

import pytest
import pytest_asyncio

from broker import PermissionDenied, StreamBroker
from broker.backends.memory.backend import MemoryBackend
from broker.backends.memory.clock import ManualClock
from broker.backends.memory.hub import MemoryHub

KEYS = [f"room.{number}" for number in range(10)]


class Short(MemoryBackend):
    """Tells who watches ten keys, once the first two are there, that no more wait; hands out two at a time."""

    told = 0

    async def open_consumer(self, options):
        source = await super().open_consumer(options)
        fetched = source.fetch

        async def fetch(_limit, **options):
            got = await fetched(2, **options)
            self.told += len(got)
            for each in got:
                each.pending = 0
            return got

        source.fetch = fetch
        return source

    async def consumer_info(self, stream, name):
        return replace(await super().consumer_info(stream, name), pending=0 if self.told else len(KEYS))


class Denied(MemoryBackend):
    async def get_message(self, *_args, **_options):
        raise PermissionDenied("may not read single messages", subject="$JS.API.STREAM.MSG.GET.KV_rooms")


@pytest_asyncio.fixture
async def rooms(request):
    async with StreamBroker(request.param(MemoryHub(clock=ManualClock()))) as sb:
        bucket = await sb.key_value("rooms")
        for key in KEYS:
            await bucket.put(key, "open")
        yield bucket


async def told_until_ready(watch):
    seen = []
    async with asyncio.timeout(5):
        async for entry in watch:
            seen.append(entry.key)
            if watch.ready.is_set():
                break
    return seen


@pytest.mark.parametrize("rooms", [Short], indirect=True)
@pytest.mark.parametrize("filters", [(), ("room.*",), tuple(KEYS)], ids=["all", "pattern", "one-by-one"])
async def test_ready_waits_for_what_the_count_leaves_out(rooms, filters):
    async with rooms.watch(*filters) as watch:
        await rooms.put(KEYS[9], "closed")
        await rooms.put(KEYS[0], "closed")
        assert sorted(set(await told_until_ready(watch))) == KEYS


@pytest.mark.parametrize("rooms", [Denied], indirect=True)
async def test_without_the_right_to_read_single_messages_the_count_decides(rooms):
    async with rooms.watch() as watch:
        assert await told_until_ready(watch) == KEYS
