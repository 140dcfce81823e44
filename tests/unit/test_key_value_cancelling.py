"""Watching, cancelled at every await: nothing is left behind and the next step has what this one would have had."""

import asyncio
from contextlib import aclosing

import pytest_asyncio

from broker import StreamBroker
from broker.testing.cancelling import cancelled_everywhere
from broker.testing.conformance.scene import listed


@pytest_asyncio.fixture
async def sb():
    async with StreamBroker.connect("memory://") as connected:
        yield connected


async def consumers(sb):
    return [name async for name in sb.consumers.names("KV_bucket")]


async def test_opening_a_watch(sb):
    kv = await sb.key_value("bucket")
    await kv.put("a", 1)

    async def look():
        async with kv.watch() as watch:
            return (await anext(watch)).json()

    async with aclosing(cancelled_everywhere(look)) as runs:
        async for run in runs:
            assert run.reached or run.result == 1
            assert await consumers(sb) == []


async def test_keys_history_and_writes(sb):
    kv = await sb.key_value("bucket")
    await kv.put("a", 1)

    async def work():
        keys = await listed(kv.keys())
        await kv.modify("a", lambda entry: entry.json() + 1)
        return keys, len(await kv.history("a")) > 1

    async with aclosing(cancelled_everywhere(work)) as runs:
        async for run in runs:
            assert run.reached or run.result == (["a"], True)
            await asyncio.sleep(0)
            assert await consumers(sb) == []


async def test_a_watch_that_has_to_begin_anew(sb):
    """The step that mends it is cancelled wherever it waits; the steps after it miss nothing and repeat nothing."""
    kv = await sb.key_value("bucket", history=64)
    revision = await kv.put("a", 0)
    async with kv.watch() as watch:
        assert (await anext(watch)).revision == revision

        async def step():
            return (await anext(watch)).revision

        async def work():
            for name in await consumers(sb):
                await sb.consumers.delete("KV_bucket", name)
            return await step()

        told, expected = [], []
        async with aclosing(cancelled_everywhere(work)) as runs:
            expected.append(await kv.put("a", 1))
            async for run in runs:
                if not run.reached:
                    told.append(run.result)
                while len(told) < len(expected):
                    told.append(await asyncio.wait_for(step(), 5))
                expected.append(await kv.put("a", 1))
        assert told == expected[: len(told)]
        assert len(told) > 5
