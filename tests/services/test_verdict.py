"""The verdict must be able to fail: every kind of damage is done to an otherwise perfect run."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import msgspec
import pytest

from services.demo.evidence import gather
from services.demo.verdict import OK, Copy, Kill, judge, sentence
from services.leaderboard.standings import Standings
from services.settlement.ledger import Delivered, Ledger
from services.settlement.rewards import leaderboard_updates

BATTLES = 12
HIT = Kill("settlement-1", running=True, in_hand=3)


class Run:
    """A perfect run on files, to be damaged."""

    def __init__(self, directory, make_battle) -> None:
        self.history = directory / "rooms.jsonl"
        self.ledger = directory / "ledger.db"
        self.standings = directory / "standings.db"
        self.battles = [make_battle(f"r-{n}", scores=(50 + n, 30, 0)) for n in range(BATTLES)]
        self.copies = [Copy(n, ended) for n, ended in enumerate([*self.battles, self.battles[3]], start=1)]
        self.kill: Kill | None = HIT
        self.record([ended.battle_id for ended in self.battles])
        with Ledger(self.ledger, worker="w") as ledger, Standings(self.standings) as standings:
            for copy in self.copies:
                ledger.apply(copy.ended, Delivered(copy.sequence))
            for ended in self.battles:
                for update in leaderboard_updates(ended):
                    standings.apply(update)

    def record(self, ended: list[str]) -> None:
        lines = [{"op": "ended", "battle_id": battle} for battle in ended]
        self.history.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))

    def damage(self, statements: str, *, standings: bool = False) -> None:
        """Change a database behind everyone's back: a table without its constraints and triggers."""
        with closing(sqlite3.connect(self.standings if standings else self.ledger)) as db:
            if not standings:
                for table in ("settlement", "entry", "repeat"):
                    db.executescript(
                        f"CREATE TABLE bare AS SELECT * FROM {table}; DROP TABLE {table}; "
                        f"ALTER TABLE bare RENAME TO {table};"
                    )
            db.executescript(statements)

    def verdict(self) -> str:
        evidence = gather(
            histories=[self.history],
            copies=self.copies,
            ledger=self.ledger,
            standings=self.standings,
            kill=self.kill,
        )
        return sentence(judge(evidence))


@pytest.fixture
def run(tmp_path, make_battle):
    return Run(tmp_path, make_battle)


def test_a_perfect_run_is_ok(run):
    assert run.verdict() == OK == "OK: every battle settled exactly once"


def test_copying_the_tables_bare_does_no_damage_by_itself(run):
    run.damage("")
    assert run.verdict() == OK


@pytest.mark.parametrize(
    ("statements", "reason"),
    [
        ("DELETE FROM settlement WHERE battle_id = 'r-5'", "1 not settled (r-5)"),
        ("INSERT INTO settlement SELECT * FROM settlement WHERE battle_id = 'r-5'", "1 settled more than once (r-5)"),
        (
            (
                "INSERT INTO settlement SELECT 'ghost', payload_hash, room, epoch, rules_version, 99, worker, "
                "settled_at FROM settlement WHERE battle_id = 'r-5'"
            ),
            "1 settled though they never ended (ghosts) (ghost)",
        ),
        ("DELETE FROM entry WHERE tx = 'r-5' AND n = 1", "1 entries do not add up to zero (r-5)"),
        ("DELETE FROM entry WHERE tx = 'r-5' AND n = 1", "the ledger adds up to"),
        ("DELETE FROM entry WHERE tx = 'r-5'", "1 not paid what the rules say (r-5)"),
        ("INSERT INTO entry SELECT * FROM entry WHERE tx = 'r-5'", "1 not paid what the rules say (r-5)"),
        (
            "INSERT INTO entry SELECT 'ghost', n, account, currency, amount FROM entry WHERE tx = 'r-5'",
            "1 entries without a settlement (ghosts) (ghost)",
        ),
        (
            (
                "UPDATE entry SET amount = amount + 1 WHERE tx = 'r-5' AND n = 0; "
                "UPDATE entry SET amount = amount - 1 WHERE tx = 'r-5' AND n = 1"
            ),
            "1 not paid what the rules say (r-5)",
        ),
        (
            (
                "UPDATE entry SET amount = amount + 1 WHERE tx = 'r-5' AND n = 0; "
                "UPDATE entry SET amount = amount - 1 WHERE tx = 'r-6' AND n = 0"
            ),
            "2 entries do not add up to zero (r-5, r-6)",
        ),
        ("DELETE FROM repeat", "1 stored messages neither settled nor absorbed (13)"),
        (
            "INSERT INTO quarantine SELECT battle_id, 'other', 1, x'00', worker, settled_at FROM settlement LIMIT 1",
            "1 quarantined",
        ),
    ],
)
def test_a_tampered_ledger_fails(run, statements, reason):
    run.damage(statements)
    assert run.verdict().startswith("FAILED: ")
    assert reason in run.verdict()


@pytest.mark.parametrize(
    "statements",
    [
        "UPDATE standing SET score = score + 1 WHERE player = 'p1'",
        "DELETE FROM standing WHERE player = 'p3'",
        "INSERT INTO standing VALUES ('season', 'ghost', 0, 1, 1)",
    ],
)
def test_tampered_standings_fail(run, statements):
    run.damage(statements, standings=True)
    assert "1 players whose points differ from their battles" in run.verdict()


def test_a_battle_that_ended_and_was_never_stored_fails(run):
    run.record([*(ended.battle_id for ended in run.battles), "r-lost"])
    assert "1 not in the stream (r-lost)" in run.verdict()
    assert "1 not settled (r-lost)" in run.verdict()


def test_a_stored_battle_no_room_has_ended_fails(run):
    run.record([ended.battle_id for ended in run.battles[1:]])
    assert "1 in the stream though they never ended (r-0)" in run.verdict()
    assert "settled though they never ended (ghosts)" in run.verdict()


def test_a_battle_ended_twice_or_with_two_results_fails(run, make_battle):
    run.record([*(ended.battle_id for ended in run.battles), "r-0"])
    run.copies.append(Copy(14, make_battle("r-1", scores=(1, 0, 0))))
    assert "1 ended twice (r-0)" in run.verdict()
    assert "r-1 is in the stream with two results" in run.verdict()


@pytest.mark.parametrize("kill", [Kill("w", running=False, in_hand=3), Kill("w", running=True, in_hand=0)])
def test_a_kill_that_hit_nothing_makes_the_run_void(run, kill):
    run.kill = kill
    assert run.verdict().startswith("FAILED: void: w ")


def test_nothing_at_all_is_not_a_success(tmp_path):
    evidence = gather(histories=[], copies=[], ledger=tmp_path / "no.db", standings=tmp_path / "none.db", kill=HIT)
    assert sentence(judge(evidence)) == "FAILED: void: no battle ended"


def test_many_reasons_stay_one_line(run):
    run.damage("DELETE FROM settlement; DELETE FROM entry WHERE n = 0; DELETE FROM repeat")
    run.damage("DELETE FROM standing", standings=True)
    run.copies.append(Copy(99, run.battles[0]))
    assert "\n" not in run.verdict()
    assert run.verdict().startswith("FAILED: 12 not settled (r-0, r-1, r-10, ...)")
