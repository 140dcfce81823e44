from __future__ import annotations

import sqlite3
from collections import defaultdict

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.events import LeaderboardUpdate
from services.leaderboard.standings import Applied, Standings


def update(event: str, player: str, points: int, *, at: int = 1, board: str = "season") -> LeaderboardUpdate:
    return LeaderboardUpdate(event_id=event, board=board, player=player, points=points, battle_id="b", event_time=at)


@pytest.fixture
def standings(tmp_path):
    with Standings(tmp_path / "standings.db") as open_standings:
        yield open_standings


def test_an_event_counts_once(standings):
    assert standings.apply(update("e1", "ann", 10)) is Applied.COUNTED
    assert standings.apply(update("e1", "ann", 10)) is Applied.DUPLICATE
    assert [(each.player, each.score, each.events) for each in standings.top("season", 10)] == [("ann", 10, 1)]


def test_another_event_under_a_used_id_has_no_effect(standings):
    standings.apply(update("e1", "ann", 10))
    assert standings.apply(update("e1", "ann", 99)) is Applied.CONFLICT
    assert standings.apply(update("e1", "bob", 10)) is Applied.CONFLICT
    assert [(each.player, each.score) for each in standings.top("season", 10)] == [("ann", 10)]


def test_an_event_counts_once_across_a_restart(tmp_path):
    for expected in (Applied.COUNTED, Applied.DUPLICATE):
        with Standings(tmp_path / "s.db") as standings:
            assert standings.apply(update("e1", "ann", 10)) is expected


def test_ties_go_to_the_one_who_was_there_first_then_to_the_id(standings):
    standings.apply(update("e1", "zoe", 30, at=5))
    standings.apply(update("e2", "bob", 30, at=9))
    standings.apply(update("e3", "ann", 30, at=9))
    standings.apply(update("e4", "top", 31, at=99))
    standings.apply(update("e5", "zoe", 0, at=50))
    assert [(each.place, each.player) for each in standings.top("season", 10)] == [
        (1, "top"),
        (2, "zoe"),
        (3, "ann"),
        (4, "bob"),
    ]
    assert [each.player for each in standings.top("season", 2)] == ["top", "zoe"]


def test_boards_are_apart(standings):
    standings.apply(update("e1", "ann", 1))
    standings.apply(update("e2", "ann", 2, board="weekly"))
    assert [each.score for each in standings.top("weekly", 5)] == [2]
    assert standings.top("none", 5) == []


def test_a_failing_write_leaves_neither_event_nor_points(tmp_path):
    with Standings(tmp_path / "s.db", busy_timeout=0.05) as standings:
        other = sqlite3.connect(tmp_path / "s.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError):
            standings.apply(update("e1", "ann", 10))
        other.execute("ROLLBACK")
        other.close()
        assert standings.apply(update("e1", "ann", 10)) is Applied.COUNTED


EVENTS = st.lists(
    st.tuples(st.sampled_from(["ann", "bob", "cat", "dan"]), st.integers(-5, 20), st.integers(1, 6)), max_size=30
).map(lambda rows: [update(f"e{n}", player, points, at=at) for n, (player, points, at) in enumerate(rows)])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=EVENTS, data=st.data())
def test_shuffled_and_duplicated_input_gives_the_oracle_s_table(tmp_path_factory, events, data):
    repeats = data.draw(st.lists(st.sampled_from(events), max_size=20)) if events else []
    arriving = data.draw(st.permutations(events + repeats))
    with Standings(tmp_path_factory.mktemp("standings") / "s.db") as standings:
        outcomes = [standings.apply(each) for each in arriving]
        table = [(each.player, each.score) for each in standings.top("season", 100)]
    assert outcomes.count(Applied.COUNTED) == len(events)
    score, reached = defaultdict(int), defaultdict(int)
    for each in events:
        score[each.player] += each.points
        reached[each.player] = max(reached[each.player], each.event_time if each.points else 0)
    assert table == [(p, score[p]) for p in sorted(score, key=lambda p: (-score[p], reached[p], p))]
