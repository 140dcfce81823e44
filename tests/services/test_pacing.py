from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.pacing import CATCH_UP, EARLY, PHASES, Lateness, Pacer, drive, spread

RATE = 30


class Clock:
    def __init__(self, *, oversleep: float = 0.0) -> None:
        self.now = 100.0
        self.oversleep = oversleep
        self.sleeps: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds + self.oversleep
        await asyncio.sleep(0)


async def ticks_of(clock: Clock, last: int, work=abs) -> tuple[Pacer, list[tuple[int, float]], Lateness]:
    pacer, ran, lateness = Pacer(RATE, clock.now), [], Lateness()

    def step(tick: int) -> bool:
        ran.append((tick, clock.now))
        work(tick)
        return tick < last

    await drive(pacer, step, lateness=lateness, clock=clock, sleep=clock.sleep)
    return pacer, ran, lateness


async def test_a_minute_of_late_timers_and_work_does_not_drift():
    clock = Clock(oversleep=0.002)

    def work(_tick: int) -> None:
        clock.now += 0.005

    pacer, ran, _ = await ticks_of(clock, last=60 * RATE - 1, work=work)
    assert [tick for tick, _ in ran] == list(range(60 * RATE))
    assert pacer.skipped == 0
    assert all(0 <= at - (100.0 + tick / RATE) < 0.003 for tick, at in ran)


async def test_a_stall_of_200_ms_is_skipped_counted_and_over_at_once():
    clock = Clock()

    def work(tick: int) -> None:
        if tick == 10:
            clock.now += 0.2

    pacer, ran, lateness = await ticks_of(clock, last=30, work=work)
    numbers = [tick for tick, _ in ran]
    # Six deadlines pass while tick 10 takes 200 ms: three are skipped, the newest three run, then the phase is right.
    assert numbers == [*range(11), 14, 15, 16, *range(17, 31)]
    assert pacer.skipped == 3
    assert pacer.planned == pacer.run + pacer.skipped == 31
    burst = [tick for tick, at in ran if at == ran[11][1]]
    assert len(burst) == CATCH_UP
    assert all(at == pytest.approx(100.0 + tick / RATE) for tick, at in ran if tick > 16)
    assert lateness.max == pytest.approx(100.2 + 10 / RATE - (100.0 + 14 / RATE), abs=1e-6)


async def test_a_tick_that_is_a_little_late_is_run_not_skipped():
    clock = Clock()

    def work(tick: int) -> None:
        clock.now += 0.05 if tick == 5 else 0.0

    pacer, ran, _ = await ticks_of(clock, last=20, work=work)
    assert [tick for tick, _ in ran] == list(range(21))
    assert pacer.skipped == 0


def test_nothing_is_due_before_its_time():
    pacer = Pacer(RATE, 100.0)
    assert not pacer.due(99.0)
    assert pacer.due(100.0 - EARLY) == range(1)
    assert not pacer.due(100.0)
    assert pacer.deadline == pytest.approx(100.0 + 1 / RATE)


@given(st.lists(st.floats(min_value=0, max_value=2, allow_nan=False), max_size=60))
def test_every_deadline_is_run_or_skipped_once_and_never_more_than_three_at_a_time(steps):
    pacer, now, ran = Pacer(RATE, 0.0), 0.0, []
    for step in steps:
        now += step
        due = pacer.due(now)
        assert len(due) <= CATCH_UP
        ran += due
        assert ran == sorted(set(ran))
        assert len(ran) == pacer.run
        assert pacer.planned == pacer.run + pacer.skipped
        assert pacer.deadline > now


async def test_a_step_that_raises_ends_the_loop():
    clock = Clock()

    def work(tick: int) -> None:
        if tick == 3:
            raise LookupError

    with pytest.raises(LookupError):
        await ticks_of(clock, last=10, work=work)


def test_lateness_knows_its_quantiles_within_a_tenth_of_a_millisecond():
    lateness = Lateness()
    assert lateness.quantile(0.99) == 0.0
    for n in range(1000):
        lateness.record(n / 100_000)
    assert lateness.quantile(0.5) == pytest.approx(0.005, abs=0.0001)
    assert lateness.quantile(0.99) == pytest.approx(0.0099, abs=0.0001)
    lateness.record(-1.0)
    lateness.record(3.0)
    assert lateness.quantile(1.0) == lateness.max == 3.0


def test_loops_of_a_process_share_few_moments_evenly_within_one_tick():
    starts = spread(100, rate=RATE, now=50.0)
    assert len(starts) == 100
    moments = sorted(set(starts))
    assert len(moments) == PHASES
    assert {starts.count(moment) for moment in moments} <= {100 // PHASES, 100 // PHASES + 1}
    assert 50.0 <= moments[0] <= 50.0 + 1 / RATE
    assert moments[-1] - moments[0] < 1 / RATE
    assert spread(1, rate=RATE, now=50.0) != spread(1, rate=RATE, now=50.0)


def test_counts_tell_where_things_lie_and_add_up():
    lateness = Lateness()
    for seconds in (-1.0, 0.00005, 0.00015, 0.00015, 0.5):
        lateness.record(seconds)
    lateness.record(0.01, times=3)
    assert lateness.counts() == {0: 2, 1: 2, 100: 3, 2000: 1}


async def test_a_loop_that_may_catch_up_more_skips_less():
    pacer = Pacer(RATE, 0.0, catch_up=8)
    assert pacer.due(9.5 / RATE) == range(2, 10)
    assert (pacer.run, pacer.skipped) == (8, 2)
