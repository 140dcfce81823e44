"""The rules of lanes: which lane a key belongs to, who takes which lane, whose turn it is."""

from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import InvalidOption, StreamOptions, StreamSource, SubjectTransform
from broker.contracts.lanes import (
    Lane,
    Place,
    again_subject,
    key_of_token,
    key_token,
    keyed_subject,
    lane_of,
    lane_of_filter,
    lane_of_token,
    no_key_token,
    place_of,
    stored_patterns,
    stored_subject,
)
from broker.contracts.subjects import publish_subject
from broker.lanes.assignment import assignment
from broker.lanes.parking import Parking, Verdict, Waiting
from broker.lanes.records import group_subject, parked_subject

KEYS = st.text(min_size=1, max_size=60).filter(lambda key: key.isprintable() and key == key.strip())


@pytest.mark.parametrize(("token", "digest"), [("a", 0xE40C292C), ("foobar", 0xBF9CF968), ("", 0x811C9DC5)])
def test_a_lane_is_the_fnv_1a_of_the_token(token, digest):
    assert lane_of_token(token, 2**32) == digest


@given(KEYS)
def test_a_key_is_one_token_of_a_subject_and_comes_back(key):
    token = key_token(key)
    assert publish_subject(f"gamebroker.keyed.{token}.a").count(".") == 3
    assert len(token) <= 128
    if token.startswith("~"):
        assert key_of_token(token) is None
    else:
        assert key_of_token(token) == unquote(token) == key


@pytest.mark.parametrize(
    ("key", "token"),
    [
        ("player-7_A", "player-7_A"),
        ("a.b", "a%2Eb"),
        ("Zoë", "Zo%C3%AB"),
        ("a b", "a%20b"),
        ("~", "%7E"),
        ("*", "%2A"),
        (">", "%3E"),
        ("50%", "50%25"),
        ("a/b", "a%2Fb"),
    ],
)
def test_a_key_is_percent_encoded(key, token):
    assert key_token(key) == token


def test_different_keys_have_different_tokens():
    keys = ["~a", "%7Ea", "a.b", "a%2Eb", "a%2eb", "x" * 129, "x" * 130, "é" * 43, no_key_token("id")]
    assert len({key_token(key) for key in keys}) == len(keys)
    assert no_key_token("id") not in {key_token(key) for key in keys}


@given(KEYS, st.integers(1, 1024))
def test_every_key_has_a_lane(key, lanes):
    assert 0 <= lane_of(key, lanes) < lanes


def test_a_stored_subject_says_where_it_came_from():
    lane, place = Lane(0, 3), Place("battle.settle.now", "a%2Eb")
    assert keyed_subject("a%2Eb", "battle.settle.now") == "gamebroker.keyed.a%2Eb.battle.settle.now"
    assert place_of(stored_subject(lane, "a%2Eb", "battle.settle.now")) == place
    assert place_of(again_subject("S", "q", lane, place)) == place._replace(again=True)
    for plain in ("battle.settle", "gamebroker.lane.x", "gamebroker.again.S.q.0.1.key", "gamebroker.dead.S.c"):
        assert place_of(plain) == Place(plain)


def test_filters_are_of_one_lane_or_of_all():
    assert stored_patterns(["a.*"]) == ("gamebroker.lane.*.*.*.a.*",)
    one = stored_patterns(["a.>"], stream="S", queue="q", lane=Lane(1, 3))
    assert one == ("gamebroker.lane.1.3.*.a.>", "gamebroker.again.S.q.1.3.*.a.>")
    assert lane_of_filter(one[0]) == Lane(1, 3)
    assert lane_of_filter("gamebroker.lane.*.*.*.a") is None


@given(st.sets(st.text("abcdef0123456789", min_size=4, max_size=8), min_size=1, max_size=40), st.integers(1, 64))
def test_lanes_are_shared_evenly_and_completely(workers, lanes):
    shares = assignment(workers, lanes)
    assert shares.keys() == workers
    assert sorted(lane for held in shares.values() for lane in held) == list(range(lanes))
    assert max(map(len, shares.values())) <= -(-lanes // len(workers))
    assert shares == assignment(sorted(workers, reverse=True), lanes)


def test_most_lanes_stay_when_somebody_comes_or_goes():
    moved = []
    for run in range(50):
        workers = [f"{run}-{each}" for each in range(4)]
        before, after = assignment(workers[:3], 32), assignment(workers, 32)
        moved.append(sum(lane not in after[worker] for worker in workers[:3] for lane in before[worker]))
    assert sum(moved) / len(moved) < 14  # 8 must move; sharing anew by number would move 24


def test_nobody_at_work_takes_nothing():
    assert assignment((), 8) == {}


def waiting(order, **options):
    return Waiting("ann", order, 100 + order, **options)


def test_a_key_with_nothing_waiting_is_handled():
    parking = Parking()
    parking.park(waiting(5))
    assert parking.judge("bob", 9, None) is Verdict.HANDLE
    assert parking.judge("bob", 9, 109) is Verdict.DROP  # done with: what is to be tried again waits until it is


@pytest.mark.parametrize(
    ("order", "turn", "verdict"),
    [
        (4, None, Verdict.HANDLE),  # before everything that waits
        (5, 105, Verdict.HANDLE),  # the first of those that wait, at its next attempt
        (5, None, Verdict.DROP),  # the same, from before it was parked
        (5, 99, Verdict.DROP),  # an attempt it had before
        (7, 107, Verdict.DROP),  # not its turn, and parked already
        (8, 108, Verdict.DROP),  # done with
        (6, None, Verdict.PARK),
        (9, None, Verdict.PARK),
    ],
)
def test_later_messages_of_a_key_wait_behind_earlier_ones(order, turn, verdict):
    parking = Parking()
    for each in (7, 5):
        parking.park(waiting(each))
    assert parking.judge("ann", order, turn) is verdict


def test_only_the_first_of_a_key_has_its_turn_and_only_once():
    parking = Parking()
    parking.park(waiting(5, due=10.0))
    parking.park(waiting(7))
    assert parking.due(9.0) == []
    assert parking.next_due() == 10.0
    [first] = parking.due(10.0)
    assert first.order == 5
    first.sent = True
    assert parking.due(11.0) == []
    parking.release("ann", 5)
    assert [each.order for each in parking.due(11.0)] == [7]
    parking.release("ann", 7)
    assert parking.keys == frozenset()


def test_what_is_dead_waits_for_a_decision():
    parking = Parking()
    parking.park(waiting(5, letter=1))
    parking.park(waiting(7))
    assert parking.due(1e12) == []
    assert [each.order for each in parking.dead()] == [5]
    assert parking.judge("ann", 5, 105) is Verdict.DROP


def test_reading_the_book_anew_forgets_what_was_known():
    parking = Parking()
    parking.park(waiting(5, sent=True))
    parking.replace([Waiting("ann", 6, 200)])
    assert [each.sequence for each in parking.due(0.0)] == [200]


def test_long_names_are_shortened():
    stream, queue = "s" * 255, "q" * 255
    assert publish_subject(parked_subject(stream, queue, 2**52, "k" * 128, 2**62))
    assert group_subject(stream, queue) != group_subject(stream, "q" * 254)


@pytest.mark.parametrize(
    "options",
    [
        {"atomic": True},
        {"schedules": True, "discard": "old"},
        {"counters": True, "discard": "old"},
        {"subject_transform": SubjectTransform("s", "t")},
        {"sources": [StreamSource("S2")]},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_stores_otherwise_contradicts_lanes(options):
    with pytest.raises(InvalidOption) as caught:
        StreamOptions("S", ["s"], lanes=2, **options)
    assert caught.value.option == "lanes"
