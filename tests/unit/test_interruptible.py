"""A wait that is cut short is not a cancellation, and a cancellation is not swallowed."""

import asyncio

import pytest

from broker.interruptible import Interruptible


async def test_what_comes_in_time_is_returned():
    async def soon():
        await asyncio.sleep(0)
        return 7

    assert await Interruptible().wait(soon()) == 7


async def test_interrupting_ends_the_wait_and_not_the_task():
    waits, turns = Interruptible(), []

    async def loop():
        for _ in range(3):
            turns.append(await waits.wait(asyncio.sleep(60, "slept")))
        return asyncio.current_task().cancelling()

    task = asyncio.create_task(loop())
    for _ in range(3):
        await asyncio.sleep(0)
        waits.interrupt()
        waits.interrupt()  # once is enough
        await asyncio.sleep(0)
    assert await asyncio.wait_for(task, 5) == 0
    assert turns == [None] * 3


async def test_interrupting_nobody_is_nothing():
    waits = Interruptible()
    waits.interrupt()
    assert await waits.wait(asyncio.sleep(0, "slept")) == "slept"


async def test_a_real_cancellation_propagates():
    waits = Interruptible()
    task = asyncio.create_task(waits.wait(asyncio.sleep(60)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_of_what_is_awaited_is_raised():
    async def fails():
        raise LookupError

    with pytest.raises(LookupError):
        await Interruptible().wait(fails())
