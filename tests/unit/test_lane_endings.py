"""A worker that gives its lanes up again, cancelled wherever it waits: no lane stays at work without it."""

import asyncio
from contextlib import aclosing

import pytest

from broker import ApiError, StreamBroker, StreamOptions
from broker.backends.memory import MemoryBackend, MemoryHub
from broker.lanes import membership
from broker.testing.cancelling import cancelled_everywhere
from broker.testing.waiting import eventually


class OneLaneShort(MemoryBackend):
    """A server that cannot make one of the consumers right now."""

    async def open_consumer(self, options):
        if options.lane is not None and options.lane.number == 1:
            raise ApiError("no leader right now", code=503, err_code=10008, transient=True)
        return await super().open_consumer(options)


@pytest.mark.timeout(60)
async def test_a_worker_that_gives_up_leaves_no_lane_at_work(monkeypatch):
    monkeypatch.setattr(membership, "_ANSWERS", 0.0)
    sb = StreamBroker(OneLaneShort(MemoryHub()))
    await sb.declare(StreamOptions("S", ["a"], lanes=3))
    before = asyncio.all_tasks()

    async def work():
        with pytest.raises(ApiError):
            await sb.consume("a", lambda _: None, queue="q", ordered=True)

    async with aclosing(cancelled_everywhere(work)) as runs:
        async for _ in runs:
            await eventually(lambda: not asyncio.all_tasks() - before, within=10)
    await sb.aclose()
