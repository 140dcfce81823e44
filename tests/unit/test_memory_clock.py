"""The clocks: by hand in order, and with the loop."""

import asyncio
import time

from broker.backends.memory.clock import Alarm, LoopClock, ManualClock, after


def test_a_manual_clock_stands_still_until_it_is_advanced():
    clock = ManualClock()
    assert clock.now() == clock.now() == 0
    wall = clock.wall_ns()
    clock.advance(1.5)
    assert clock.now() == 1.5
    assert clock.wall_ns() - wall == 1_500_000_000


def test_due_timers_fire_in_order_of_time_then_of_setting_and_see_their_own_time():
    clock, seen = ManualClock(), []
    clock.call_at(2, lambda: seen.append(("b", clock.now())))
    clock.call_at(1, lambda: seen.append(("a", clock.now())))
    clock.call_at(2, lambda: seen.append(("c", clock.now())))
    clock.call_at(3, lambda: seen.append(("late", clock.now())))
    clock.advance(2)
    assert seen == [("a", 1), ("b", 2), ("c", 2)]
    assert clock.timers == 1


def test_timers_set_on_the_way_fire_in_the_same_advance():
    clock, seen = ManualClock(), []
    clock.call_at(1, lambda: clock.call_at(clock.now() + 1, lambda: seen.append(clock.now())))
    clock.advance(5)
    assert seen == [2]
    assert clock.now() == 5


def test_a_cancelled_timer_does_not_fire():
    clock, seen = ManualClock(), []
    timer = clock.call_at(1, lambda: seen.append(1))
    timer.cancel()
    timer.cancel()
    clock.advance(2)
    assert seen == []
    assert clock.timers == 0


def test_an_alarm_rings_at_the_earliest_time_it_was_told():
    clock, rung = ManualClock(), []
    alarm = Alarm(clock, lambda: rung.append(clock.now()))
    alarm.set(5)
    alarm.set(2)
    alarm.set(9)
    assert clock.timers == 1
    clock.advance(10)
    assert rung == [2]
    alarm.set(11)
    alarm.set(None)
    assert clock.timers == 0


async def test_the_loop_clock_is_the_running_loops_time():
    clock = LoopClock()
    assert abs(clock.now() - asyncio.get_running_loop().time()) < 1
    assert abs(clock.wall_ns() - time.time_ns()) < 1e9
    fired = asyncio.Event()
    clock.call_at(clock.now() + 0.01, fired.set)
    await asyncio.wait_for(fired.wait(), 5)


async def test_after_no_time_at_all_comes_even_when_the_clock_stands_still():
    fired = asyncio.Event()
    after(ManualClock(), 0, fired.set)
    await asyncio.wait_for(fired.wait(), 5)
