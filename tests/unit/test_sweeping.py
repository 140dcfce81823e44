"""How a sweep weighs evidence: what is still stored where acks remove messages, and notices that come late."""

from dataclasses import replace

import pytest

from broker import ConsumerInfo, ConsumerOptions, Entry, StreamBroker, StreamOptions, Swept
from broker.backends.memory import MemoryBackend, MemoryHub
from broker.contracts.exhausted import Exhausted, Notice
from broker.sweeping import _judged


def consumer(*, ack_pending=0, redelivered=3, ack_floor=0, max_deliver=2):
    return ConsumerInfo(
        stream="S",
        name="w",
        config=ConsumerOptions(durable="w", stream="S"),
        pending=0,
        ack_pending=ack_pending,
        redelivered=redelivered,
        waiting=0,
        delivered_sequence=9,
        ack_floor=ack_floor,
        max_deliver=max_deliver,
    )


@pytest.mark.parametrize(
    ("stored", "state", "given_up", "undecided"),
    [
        ([], {"redelivered": 0}, set(), 0),
        ([1, 2, 3], {}, {1, 2, 3}, 0),
        # Nothing that is in hand, and of the rest only what the floor has passed.
        ([1, 2, 3], {"ack_pending": 3}, set(), 0),
        ([1, 2, 3], {"ack_pending": 1}, set(), 2),
        ([1, 2, 3], {"ack_pending": 1, "ack_floor": 1}, {1}, 1),
        ([1, 2, 3], {"ack_pending": 1, "ack_floor": 2}, {1, 2}, 0),
        # Purged while in hand.
        ([1], {"ack_pending": 2}, set(), 0),
        # More than was ever handed out twice: which of them is not known.
        ([1, 2, 3], {"redelivered": 2}, set(), 3),
        # Of a single attempt the server counts none.
        ([1, 2, 3], {"redelivered": 0, "max_deliver": 1}, {1, 2, 3}, 0),
    ],
)
def test_only_what_is_certain_is_taken_for_given_up(stored, state, given_up, undecided):
    left = _judged(stored, consumer(**state))
    assert (left.given_up, left.undecided, left.unknown) == (given_up, undecided, 0)


class SlowNotices(Exhausted):
    """Keeps one more notice whenever it is asked how many there are; a server whose disk is busy does."""

    def __init__(self, coming):
        self.coming = coming
        self.kept = {}
        self.unsettled = set(coming)

    async def keep_notices(self, replicas):
        assert replicas == 1

    async def last_notice(self):
        if self.coming:
            sequence = self.coming.pop(0)
            self.kept[sequence] = Notice(sequence, "w", sequence, 2, 4_000_000_000 * 10**9)
        return max(self.kept, default=0)

    async def next_notice(self, stream, consumer, after):
        assert (stream, consumer) == ("S", None)
        return next((self.kept[number] for number in sorted(self.kept) if number > after), None)

    async def forget_notice(self, number):
        self.kept.pop(number, None)

    async def decide(self, consumer):
        raise AssertionError(f"nothing is in hand at {consumer.name}")

    async def next_stored(self, stream, pattern, after):
        raise AssertionError(f"acks remove nothing from {stream}: {pattern}, {after}")

    async def settle(self, stream, consumer, sequence, *, attempts, reason):
        assert (stream, consumer, attempts, reason) == ("S", "w", 2, "max_deliver (server)")
        self.unsettled.discard(sequence)


class LimitedConsumers(MemoryBackend):
    exhausted = None

    async def consumer_info(self, stream, name):
        return self._limited(await super().consumer_info(stream, name))

    async def list_consumers(self, stream):
        async for info in super().list_consumers(stream):
            yield self._limited(info)

    def _limited(self, info):
        return replace(info, max_deliver=2, redelivered=len(self.exhausted.unsettled), delivered_sequence=9)


async def test_notices_are_waited_for_as_long_as_they_come(monkeypatch):
    monkeypatch.setattr("broker.sweeping._GRACE", 0.01)
    backend = LimitedConsumers(MemoryHub())
    async with StreamBroker(backend) as sb:
        await sb.declare(StreamOptions("S", ["s.>"]))
        await sb.enqueue_many(Entry("s.a", n) for n in range(5))
        await sb.consumers.create(ConsumerOptions(durable="w", stream="S"))
        backend.exhausted = SlowNotices([1, 2, 3, 5])
        assert await sb.dead_letters.sweep("S") == Swept(written=4)
        backend.exhausted.unsettled.add(4)  # its notice never comes
        assert await sb.dead_letters.sweep("S") == Swept(unknown=1)


async def test_what_comes_without_end_ends_a_sweep_nevertheless(monkeypatch):
    monkeypatch.setattr("broker.sweeping._GRACE", 0.001)
    backend = LimitedConsumers(MemoryHub())
    async with StreamBroker(backend) as sb:
        await sb.declare(StreamOptions("S", ["s.>"]))
        await sb.enqueue_many(Entry("s.a", n) for n in range(100))
        await sb.consumers.create(ConsumerOptions(durable="w", stream="S"))
        backend.exhausted = SlowNotices(list(range(1, 101)))
        backend._limited = lambda info: replace(info, max_deliver=2, redelivered=7, delivered_sequence=100)
        swept = await sb.dead_letters.sweep("S")
        assert 20 < swept.written < 60
        assert swept.unknown == 7
