"""Slots on their own: who runs, who waits, and whom nobody may forget."""

import asyncio
from types import SimpleNamespace

from broker.slots import Slots


def message():
    return SimpleNamespace(settled=False)


async def test_a_handler_cancelled_before_its_first_step_is_handed_back():
    ran = []

    async def handle(taken, _settler):
        ran.append(taken)

    slots, one = Slots(1, 10, handle), message()
    slots.start(one, "settler")
    (task,) = slots.tasks
    task.cancel()
    await asyncio.wait([task])
    await asyncio.sleep(0)
    assert (ran, slots.take_waiting()) == ([], [(one, "settler")])


async def test_no_more_run_than_there_are_slots_and_the_others_follow():
    gate, running, most = asyncio.Event(), 0, 0

    async def handle(taken, _settler):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await gate.wait()
        running -= 1
        taken.settled = True

    slots, all_of_them = Slots(2, 10, handle), [message() for _ in range(5)]
    for each in all_of_them:
        slots.start(each, None)
    await asyncio.sleep(0)
    gate.set()
    while slots.tasks:
        await asyncio.wait(slots.tasks)
    assert most == 2
    assert all(each.settled for each in all_of_them)
