"""The lending rules, without a loop and without time."""

import pytest

from broker.backends.memory.lending import Lending, Start


class Numbers:
    """A shelf of bare sequences."""

    def __init__(self, *sequences):
        self.sequences = set(sequences)

    def next_from(self, sequence):
        return min((each for each in self.sequences if each >= sequence), default=None)

    def __contains__(self, sequence):
        return sequence in self.sequences


def lending(*sequences, start=None, acks=True, places=10, wait=30.0):
    start = start or Start(1, (), len(sequences))
    return Lending(Numbers(*sequences), start, max_ack_pending=places, ack_wait=wait, acks=acks)


def taken(rules, now=0.0):
    out = []
    while (lent := rules.lend(now)) is not None:
        out.append((lent.sequence, lent.attempt))
    return out


def test_new_messages_are_lent_in_order_with_how_many_wait_behind():
    rules = lending(1, 3, 7)
    assert [rules.lend(0).pending for _ in range(3)] == [2, 1, 0]
    assert rules.lend(0) is None
    assert (rules.delivered, rules.ack_floor, rules.ack_pending) == (7, 0, 3)


def test_places_limit_loans_and_settling_frees_one():
    rules = lending(1, 2, 3, places=2)
    assert taken(rules) == [(1, 1), (2, 1)]
    assert rules.settle(1)
    assert taken(rules) == [(3, 1)]


def test_settling_twice_is_fine_and_the_floor_follows_the_lowest_loan():
    rules = lending(1, 2, 3)
    taken(rules)
    assert rules.settle(2)
    assert not rules.settle(2)
    assert rules.ack_floor == 0
    rules.settle(1)
    assert rules.ack_floor == 2
    rules.settle(3)
    assert rules.ack_floor == 3


def test_an_expired_loan_comes_again_before_new_ones_lowest_first():
    rules = lending(1, 2, 3, 4, places=3)
    assert taken(rules) == [(1, 1), (2, 1), (3, 1)]
    assert rules.next_due == 30
    assert not rules.expire(29.9)
    assert rules.expire(30)
    rules.settle(2)
    assert taken(rules, 30) == [(1, 2), (3, 2), (4, 1)]
    assert rules.redelivered == 2
    assert rules.next_due == 60


def test_given_back_comes_at_once_or_after_the_delay_and_keeps_its_place():
    rules = lending(1, 2, places=1)
    rules.lend(0)
    assert rules.give_back(1, 0, 5)
    assert rules.lend(0) is None
    rules.expire(4.9)
    assert rules.lend(4.9) is None
    rules.expire(5)
    assert taken(rules, 5) == [(1, 2)]
    rules.give_back(1, 6)
    rules.give_back(1, 6)
    assert taken(rules, 6) == [(1, 3)]


def test_extend_starts_the_time_anew_even_when_that_is_sooner():
    rules = lending(1, wait=10)
    rules.lend(0)
    rules.extend(1, 8)
    assert not rules.expire(10)
    assert not rules.expire(17.9)
    rules.give_back(1, 17.9, 100)
    assert not rules.expire(20)
    rules.extend(1, 20)
    assert rules.next_due == 30
    assert rules.expire(30)


def test_settling_needs_no_fencing_an_earlier_attempt_settles_the_later_one():
    rules = lending(1, wait=1)
    rules.lend(0)
    rules.expire(1)
    assert taken(rules, 1) == [(1, 2)]
    assert rules.settle(1)
    rules.expire(100)
    assert taken(rules, 100) == []
    assert not rules.give_back(1, 100)
    assert not rules.extend(1, 100)


def test_without_acks_lending_settles():
    rules = lending(1, 2, acks=False, places=1)
    assert taken(rules) == [(1, 1), (2, 1)]
    assert (rules.ack_pending, rules.ack_floor, rules.next_due) == (0, 2, None)
    rules.take_back(1)
    assert rules.ack_floor == 0
    assert taken(rules) == [(1, 1)]


def test_what_leaves_the_stream_is_settled_or_never_lent():
    rules = lending(1, 2, 3)
    rules.lend(0)
    for gone in (1, 2):
        rules._shelf.sequences.discard(gone)
        rules.withdrawn(gone)
    assert (rules.pending, rules.ack_pending) == (1, 0)
    assert taken(rules) == [(3, 1)]


def test_picked_sequences_come_first_then_what_is_new():
    rules = lending(1, 2, 3, 4, start=Start(5, (2, 4), 2))
    assert (rules.delivered, rules.ack_floor) == (1, 1)
    rules._shelf.sequences.add(5)
    rules.offered()
    rules._shelf.sequences.discard(4)
    rules.withdrawn(4)
    assert rules.needs(2)
    assert not rules.needs(3)
    assert taken(rules) == [(2, 1), (5, 1)]


def test_deliveries_are_numbered_without_a_gap_repeats_included():
    rules = lending(1, 2, wait=1)
    numbers = [rules.lend(0).number, rules.lend(0).number]
    rules.expire(1)
    assert [*numbers, rules.lend(1).number] == [1, 2, 3]


@pytest.mark.parametrize("settle", [True, False])
def test_the_queue_of_due_times_does_not_grow_with_history(settle):
    rules = lending(*range(1, 2001), places=5000)
    for now in range(2000):
        lent = rules.lend(now)
        if settle:
            rules.settle(lent.sequence)
        else:
            rules.extend(1, now)
    assert len(rules._due) <= 2 * rules.ack_pending + 65
