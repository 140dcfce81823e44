from __future__ import annotations

import sqlite3
import threading
from contextlib import closing

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.events import LEADERBOARD_UPDATE, BattleEnded, LeaderboardUpdate, PlayerResult
from services.settlement.ledger import Delivered, Ledger, Outcome
from services.settlement.rewards import MINT, UnpayableResult, rewards


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.db"


@pytest.fixture
def ledger(path):
    with Ledger(path, worker="w1") as open_ledger:
        yield open_ledger


def test_a_battle_is_paid_in_double_entry(ledger, path, make_battle, sql):
    assert ledger.apply(make_battle(), Delivered(7)) is Outcome.APPLIED
    assert sql(path, "SELECT account, currency, amount FROM entry ORDER BY n") == [
        ("player:p1", "coin", 112),
        ("player:p2", "coin", 64),
        ("player:p3", "coin", 40),
        (MINT, "coin", -216),
    ]
    assert sql(path, "SELECT battle_id, epoch, sequence, worker FROM settlement") == [("r1-1-1", 1, 7, "w1")]


def test_the_same_result_again_is_absorbed_and_noted(ledger, path, make_battle, sql):
    ledger.apply(make_battle(), Delivered(7))
    assert ledger.apply(make_battle(), Delivered(9, 2)) is Outcome.DUPLICATE
    assert sql(path, "SELECT count(*), sum(amount) FROM entry") == [(4, 0)]
    assert sql(path, "SELECT battle_id, sequence, attempt FROM repeat") == [("r1-1-1", 9, 2)]
    assert sql(path, "SELECT count(*) FROM outbox") == [(3,)]


def test_a_crash_between_commit_and_ack_pays_once(path, make_battle, sql):
    with Ledger(path, worker="killed") as killed:
        assert killed.apply(make_battle(), Delivered(7, 1)) is Outcome.APPLIED
    with Ledger(path, worker="next") as following:
        assert following.apply(make_battle(), Delivered(7, 2)) is Outcome.DUPLICATE
        # What follows from the battle was committed with it and is found by whoever comes next.
        assert len(following.unsent(limit=10, orphaned_after=0.0)) == 3
    assert sql(path, "SELECT count(*) FROM settlement") == [(1,)]


def test_another_result_under_the_same_id_is_quarantined_and_never_paid(ledger, path, make_battle, sql):
    ledger.apply(make_battle(), Delivered(1))
    other = make_battle(scores=(999, 1, 0))
    assert ledger.apply(other, Delivered(2)) is Outcome.CONFLICT
    assert ledger.apply(other, Delivered(3)) is Outcome.CONFLICT
    assert ledger.apply(make_battle(), Delivered(4)) is Outcome.DUPLICATE
    [(sequence, body)] = sql(path, "SELECT sequence, body FROM quarantine")
    assert sequence == 2
    assert msgspec.json.decode(body, type=BattleEnded) == other
    assert sql(path, "SELECT count(*), sum(amount) FROM entry") == [(4, 0)]


@pytest.mark.parametrize("table", ["settlement", "entry", "repeat", "quarantine"])
@pytest.mark.parametrize("statement", ["UPDATE {table} SET {column} = {column}", "DELETE FROM {table}"])
def test_what_was_written_stays(ledger, path, table, statement, make_battle):
    ledger.apply(make_battle(), Delivered(1))
    ledger.apply(make_battle(), Delivered(2))
    ledger.apply(make_battle(scores=(5, 4, 3)), Delivered(3))
    column = "tx" if table == "entry" else "battle_id"
    with closing(sqlite3.connect(path)) as db, pytest.raises(sqlite3.IntegrityError, match="append-only"):
        db.execute(statement.format(table=table, column=column))


def test_replacing_a_row_is_refused_too(ledger, make_battle):
    ledger.apply(make_battle(), Delivered(1))
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        ledger._db.execute("INSERT OR REPLACE INTO entry VALUES ('r1-1-1', 0, 'player:p1', 'coin', 1000000)")


def test_amounts_are_whole_numbers(ledger, make_battle):
    ledger.apply(make_battle(), Delivered(1))
    with pytest.raises(sqlite3.IntegrityError):
        ledger._db.execute("INSERT INTO entry VALUES ('r1-1-1', 9, 'player:p9', 'coin', 0.5)")


@pytest.mark.parametrize(
    "changes",
    [
        {"rules_version": 99},
        {"results": ()},
        {"results": (PlayerResult(player="p1", place=2, score=0),)},
        {"results": (PlayerResult(player="p1", place=1, score=0), PlayerResult(player="p1", place=2, score=0))},
    ],
)
def test_a_result_no_rule_can_pay_writes_nothing(ledger, path, changes, make_battle, sql):
    with pytest.raises(UnpayableResult):
        ledger.apply(make_battle(**changes), Delivered(1))
    assert sql(path, "SELECT count(*) FROM settlement") == [(0,)]


@given(scores=st.lists(st.integers(0, 10**6), min_size=1, max_size=40))
def test_every_payout_adds_up_to_zero_and_pays_everyone_something(scores, make_battle):
    legs = rewards(make_battle(scores=tuple(scores)))
    assert sum(leg.amount for leg in legs) == 0
    assert all(isinstance(leg.amount, int) and leg.amount > 0 for leg in legs[:-1])
    assert len({leg.account for leg in legs}) == len(legs) == len(scores) + 1


def test_a_locked_file_raises_and_nothing_is_lost_or_half_done(path, make_battle):
    with Ledger(path, worker="w", busy_timeout=0.05) as ledger, closing(sqlite3.connect(path)) as other:
        other.isolation_level = None
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            ledger.apply(make_battle(), Delivered(1))
        other.execute("ROLLBACK")
        assert ledger.apply(make_battle(), Delivered(1)) is Outcome.APPLIED


def test_a_failure_inside_the_transaction_undoes_all_of_it(ledger, path, monkeypatch, make_battle, sql):
    monkeypatch.setattr("services.settlement.ledger.leaderboard_updates", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ledger.apply(make_battle(), Delivered(1))
    monkeypatch.undo()
    assert sql(path, "SELECT count(*) FROM settlement") == [(0,)]
    assert ledger.apply(make_battle(), Delivered(1)) is Outcome.APPLIED


def test_what_follows_waits_in_the_outbox_until_it_is_marked(ledger, make_battle):
    ledger.apply(make_battle(), Delivered(1))
    waiting = ledger.unsent(limit=10, orphaned_after=60.0)
    assert [(row.subject, row.key) for row in waiting] == [(LEADERBOARD_UPDATE, f"r1-1-1:p{n}") for n in (1, 2, 3)]
    points = [msgspec.json.decode(row.body, type=LeaderboardUpdate) for row in waiting]
    assert [(each.player, each.points) for each in points] == [("p1", 120), ("p2", 40), ("p3", 0)]
    ledger.mark_sent(waiting[:2])
    assert ledger.unsent(limit=10, orphaned_after=60.0) == waiting[2:]


def test_a_dead_worker_s_outbox_is_taken_over_after_a_while(path, make_battle):
    now = 1000.0
    with Ledger(path, worker="dead", clock=lambda: now) as dead:
        dead.apply(make_battle(), Delivered(1))
    with Ledger(path, worker="alive", clock=lambda: now) as alive:
        assert alive.unsent(limit=10, orphaned_after=2.0) == []
        now += 2.0
        assert len(alive.unsent(limit=10, orphaned_after=2.0)) == 3


def test_workers_racing_on_one_new_file_settle_each_battle_once(path, make_battle, sql):
    battles = [make_battle(f"b-{n}") for n in range(20)]
    outcomes: list[Outcome] = []

    def work(name: str) -> None:
        with Ledger(path, worker=name) as ledger:
            outcomes.extend([ledger.apply(each, Delivered(1)) for each in battles])

    threads = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count(Outcome.APPLIED) == 20
    assert outcomes.count(Outcome.DUPLICATE) == 60
    assert sql(path, "SELECT count(*), sum(amount) FROM entry") == [(80, 0)]
