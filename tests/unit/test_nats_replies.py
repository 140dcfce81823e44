"""The reply inbox: whatever waits in it expires in its time, at a cost that does not grow with what else waits."""

import pytest

from broker.backends.nats import replies
from broker.backends.nats.replies import Replies


class Clock:
    """A loop's time and one timer, driven by hand."""

    def __init__(self):
        self.now = 0.0
        self.timers = []

    def time(self):
        return self.now

    def call_at(self, when, callback):
        timer = Timer(when, callback, self.timers)
        self.timers.append(timer)
        return timer

    def run(self, until=float("inf")):
        while due := [timer for timer in self.timers if timer.when <= until]:
            timer = min(due, key=lambda timer: timer.when)
            timer.cancel()
            self.now = max(self.now, timer.when)
            timer.callback()


class Timer:
    def __init__(self, when, callback, timers):
        self.when = when
        self.callback = callback
        self.timers = timers

    def cancel(self):
        self.timers.remove(self)


class Link:
    def subscribe(self, _pattern, _queue, receive):
        self.receive = receive
        return 1


class Waiting:
    """A call that knows when it was told, and counts how often its deadline was looked at."""

    looks = 0
    subject = "rpc"

    def __init__(self, clock, deadline):
        self._clock = clock
        self._deadline = deadline
        self.told = []

    @property
    def deadline(self):
        Waiting.looks += 1
        return self._deadline

    def answer(self, _inbox, data, _block):
        self.told.append((data, self._clock.now))

    def expire(self):
        self.told.append(("expired", self._clock.now))

    def fail(self, error):
        self.told.append((error, self._clock.now))


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(replies.asyncio, "get_running_loop", lambda: clock)
    monkeypatch.setattr(Waiting, "looks", 0)
    return clock


@pytest.fixture
def inbox(clock):  # noqa: ARG001 - the inbox asks for its loop
    return Replies(Link(), "_INBOX.x")


def test_each_expires_in_its_own_time_whatever_the_order_they_came_in(clock, inbox):
    calls = {deadline: Waiting(clock, deadline) for deadline in (3.0, 1.0, 2.0, 1.5)}
    for call in calls.values():
        inbox.expect(call)
    clock.run(until=1.2)
    late = calls[1.3] = Waiting(clock, 1.3)
    inbox.expect(late)
    clock.run()
    assert {deadline: call.told for deadline, call in calls.items()} == {each: [("expired", each)] for each in calls}


def test_an_answered_or_abandoned_call_does_not_expire(clock, inbox):
    answered, abandoned, left = (Waiting(clock, deadline) for deadline in (1.0, 1.5, 2.0))
    subject = inbox.expect(answered)
    inbox.abandon(inbox.expect(abandoned))
    inbox.expect(left)
    inbox._link.receive(subject, b"", b"yes", None)
    clock.run()
    assert [call.told for call in (answered, abandoned, left)] == [[(b"yes", 0.0)], [], [("expired", 2.0)]]


def test_calls_that_expire_one_after_another_are_not_scanned_again_and_again(clock, inbox):
    many = [Waiting(clock, 2.0 + number / 1000) for number in range(2000)]
    for call in many:
        inbox.expect(call)
    clock.run()
    assert all(call.told == [("expired", call._deadline)] for call in many)
    assert Waiting.looks <= 4 * len(many)


def test_a_call_that_is_answered_soon_is_looked_at_once_and_leaves_nothing(clock, inbox):
    inbox.expect(Waiting(clock, 1000.0))
    for number in range(5_000):
        soon = Waiting(clock, clock.now + 500.0)
        subject = inbox.expect(soon)
        if number % 2 == 0:
            inbox.expect(Waiting(clock, clock.now + 0.001))
            clock.run(until=clock.now + 0.001)
        inbox._link.receive(subject, b"", b"", None)
    assert len(inbox._deadlines) < 2 * replies._MOST_ANSWERED
    assert Waiting.looks < 8 * 5_000
