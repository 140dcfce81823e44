"""The rate limit on a clock of its own."""

from types import SimpleNamespace

import pytest

from broker.pacing import Pace


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def batch(count, size=10):
    return [SimpleNamespace(data=b"x" * size)] * count


def run(pace, clock, seconds, room, size=10):
    """How many messages get through when there are always enough."""
    taken = 0
    while clock.now < seconds:
        if allowed := pace.allowance(room):
            pace.took(batch(allowed, size))
            taken += allowed
        else:
            clock.now += pace.delay()
    return taken


@pytest.mark.parametrize("rate", [0.5, 1, 7, 50, 1000, 1e6])
@pytest.mark.parametrize("room", [1, 16, 4096])
def test_never_more_than_the_rate_and_a_burst(rate, room):
    clock = Clock()
    seconds = 20 if rate < 1000 else 0.5
    taken = run(Pace(rate, None, clock), clock, seconds, room)
    assert taken <= rate * clock.now + max(1, rate * 0.1) + 1
    if rate * 0.001 <= room:  # what there is room for, at most a thousand times a second
        assert taken >= rate * seconds * 0.95 - 1


@pytest.mark.parametrize("size", [1, 100, 5000, 1_000_000])
def test_bytes_beyond_the_rate_are_waited_out(size):
    clock = Clock()
    taken = run(Pace(None, 10_000, clock), clock, 300, 64, size)
    assert taken * size <= 10_000 * clock.now + 1000 + 64 * size
    assert taken * size >= 10_000 * 300 * 0.9


def test_a_quiet_while_earns_no_more_than_a_burst():
    clock = Clock()
    pace = Pace(100, None, clock)
    clock.now = 3600
    assert pace.allowance(1000) == 10


def test_the_delay_is_worth_a_request():
    clock = Clock()
    pace = Pace(10_000, None, clock)
    pace.took(batch(pace.allowance(10_000)))
    assert 0.009 < pace.delay() < 0.011


def test_messages_and_bytes_both_hold():
    clock = Clock()
    pace = Pace(1000, 100, clock)
    assert run(pace, clock, 60, 100, 10) <= 10 * clock.now + 10 + 100
