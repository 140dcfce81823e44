"""The tool that cancels at every await: it must reach each of them, and tell when a cancellation goes astray."""

import asyncio
from contextlib import suppress

import pytest

from broker.testing.cancelling import cancelled_at, cancelled_everywhere


async def three_waits(seen):
    for step in range(3):
        seen.append(step)
        await asyncio.sleep(0.001 * step)
    return "done"


async def runs_of(work):
    return [run async for run in cancelled_everywhere(work)]


async def test_every_wait_is_reached_in_both_ways_and_the_last_run_is_undisturbed():
    seen = []
    runs = await runs_of(lambda: three_waits(seen))
    assert [(run.wait, run.late, run.reached) for run in runs] == [
        *((wait, late, True) for wait in range(3) for late in (True, False)),
        (3, True, False),
    ]
    assert runs[-1].result == "done"
    assert seen == [0, 0, 0, 1, 0, 1, 0, 1, 2, 0, 1, 2, 0, 1, 2]


async def test_early_is_before_what_is_awaited_is_there_and_late_is_after():
    for late in (False, True):
        answer = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(
            0.01, lambda answer=answer: answer.done() or answer.set_result("acquired")
        )
        run = await cancelled_at(lambda answer=answer: answer, 0, late=late)
        assert run.reached
        assert answer.cancelled() is not late


async def test_what_is_lost_between_its_arrival_and_the_awakening_is_found():
    """Early alone this would pass for clean."""
    opened = []

    async def acquire():
        got = asyncio.get_running_loop().create_future()

        def arrive():
            if not got.cancelled():
                opened.append("thing")
                got.set_result("thing")

        asyncio.get_running_loop().call_soon(arrive)
        opened.remove(await got)

    assert (await cancelled_at(acquire, 0)).reached
    assert opened == []
    assert (await cancelled_at(acquire, 0, late=True)).reached
    assert opened == ["thing"]


async def test_a_swallowed_cancellation_is_told():
    async def stubborn():
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(10)
        return 7

    with pytest.raises(AssertionError, match="swallowed; it returned 7"):
        await cancelled_at(stubborn, 0)


async def test_a_cancellation_that_became_another_error_is_told():
    async def disguising():
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            raise ValueError("mine") from None

    with pytest.raises(AssertionError, match="became ValueError: mine"):
        await cancelled_at(disguising, 0)


async def test_a_clean_up_that_takes_too_long_is_told_and_a_short_one_is_fine():
    async def tidy(seconds):
        try:
            await asyncio.sleep(10)
        finally:
            await asyncio.sleep(seconds)

    with pytest.raises(AssertionError, match="not over after"):
        await cancelled_at(lambda: tidy(10), 0, within=0.05)
    run = await cancelled_at(lambda: tidy(0.05), 0)
    assert run.reached
    assert run.seconds >= 0.04


async def test_errors_of_undisturbed_work_come_out():
    async def broken():
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await cancelled_at(broken, 0)


async def test_what_the_work_awaits_goes_through_unchanged():
    async def nested():
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            one = group.create_task(asyncio.sleep(0.001, "one"))
        with pytest.raises(ZeroDivisionError):
            await asyncio.gather(failing(), asyncio.sleep(0))
        return one.result()

    async def failing():
        await asyncio.sleep(0)
        return 1 / 0

    assert (await runs_of(nested))[-1].result == "one"
