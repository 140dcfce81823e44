"""How a sweep judges what is still stored where acks remove messages."""

import pytest

from broker import ConsumerInfo, ConsumerOptions
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
