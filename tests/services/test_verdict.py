"""The verdict must be able to fail: every kind of damage is done to an otherwise perfect run."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import pytest

from broker import StreamBroker
from services.database import opened
from services.demo.evidence import dead_letters, gather, stored_copies, told_to_audit
from services.demo.verdict import OK, Copy, Kill, Told, judge, sentence
from services.events import ALL_STREAMS, BATTLE_SETTLE
from services.leaderboard.standings import Standings
from services.settlement.ledger import Ledger
from services.settlement.rewards import leaderboard_updates
from services.settlement.tables import METADATA
from services.settlement.worker import SettlementWorker

if TYPE_CHECKING:
    from pathlib import Path

BATTLES = 12
HIT = Kill("settlement-1", running=True, in_hand=3)
AGAIN = "again-1"
"""The key of a repeat."""


@dataclass
class Played:
    """What a perfect run has left: databases in a directory, and what was in the streams."""

    directory: Path
    copies: list[Copy]
    told: list[Told]
    dead: list[str]


@pytest.fixture(scope="module")
def battles(make_battle):
    return [make_battle(f"r-{n}", scores=(50 + n, 30, 0)) for n in range(BATTLES)]


@pytest.fixture(scope="module")
def played(tmp_path_factory, battles):
    """By a worker, once for all of these tests."""
    directory = tmp_path_factory.mktemp("played")
    with asyncio.Runner() as runner, Standings(directory / "standings.db") as standings:
        for update in (update for ended in battles for update in leaderboard_updates(ended)):
            standings.apply(update)
        return runner.run(play(directory, battles))


async def play(directory, battles):
    async with (
        StreamBroker.connect("memory://verdict") as sb,
        opened(str(directory / "ledger.db"), METADATA) as (inbox, outbox),
    ):
        await sb.declare(*ALL_STREAMS)
        worker = SettlementWorker(sb, Ledger(outbox, worker="w"), inbox, outbox)
        await worker.start()
        for ended in battles:
            await sb.enqueue(BATTLE_SETTLE, ended, idempotency_key=ended.battle_id)
        await sb.enqueue(BATTLE_SETTLE, battles[3], idempotency_key=AGAIN)
        async with asyncio.timeout(15):
            while inbox.stats.applied <= BATTLES:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.01)
        await worker.drain()
        return Played(directory, await stored_copies(sb), await told_to_audit(sb), await dead_letters(sb))


class Run:
    """A perfect run on files of its own, to be damaged."""

    def __init__(self, directory, played, battles) -> None:
        shutil.copytree(played.directory, directory, dirs_exist_ok=True)
        self.history = directory / "rooms.jsonl"
        self.ledger = directory / "ledger.db"
        self.standings = directory / "standings.db"
        self.battles = battles
        self.copies = list(played.copies)
        self.told = list(played.told)
        self.dead = list(played.dead)
        self.kill: Kill | None = HIT
        self.record([ended.battle_id for ended in battles])

    def record(self, ended: list[str]) -> None:
        lines = [{"op": "ended", "battle_id": battle} for battle in ended]
        self.history.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))

    def damage(self, statements: str, *, standings: bool = False) -> None:
        """Change a database behind everyone's back: a table without its constraints and triggers."""
        with closing(sqlite3.connect(self.standings if standings else self.ledger)) as db:
            if not standings:
                for table in ("settlement", "entry"):
                    db.executescript(
                        f"CREATE TABLE bare AS SELECT * FROM {table}; DROP TABLE {table}; "
                        f"ALTER TABLE bare RENAME TO {table};"
                    )
            db.executescript(statements)

    def verdict(self) -> str:
        evidence = gather(
            histories=[self.history],
            copies=self.copies,
            told=self.told,
            dead=self.dead,
            ledger=self.ledger,
            standings=self.standings,
            kill=self.kill,
        )
        return sentence(judge(evidence))


@pytest.fixture
def run(tmp_path, played, battles):
    return Run(tmp_path, played, battles)


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
        ("DELETE FROM gamebroker_inbox WHERE key = 'again-1'", "1 stored messages neither settled nor absorbed (13)"),
        (
            "UPDATE gamebroker_inbox SET consumer = 'x'",
            "13 stored messages neither settled nor absorbed (1, 10, 11, ...)",
        ),
        (
            "UPDATE entry SET amount = amount * 2 WHERE tx = 'r-5'",
            "1 told to the audit otherwise than in the ledger (r-5)",
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
    run.copies.append(Copy(14, "r-1", make_battle("r-1", scores=(1, 0, 0))))
    assert "1 ended twice (r-0)" in run.verdict()
    assert "r-1 is in the stream with two results" in run.verdict()


def test_a_dead_letter_fails(run):
    run.dead.append("SETTLEMENTS 14: conflict")
    assert run.verdict() == "FAILED: 1 dead letters (SETTLEMENTS 14: conflict)"


def test_an_audit_that_was_told_something_else_fails(run):
    first, second, third, *others = run.told
    ghost = Told("ghost", first.entries)
    run.told = [first, first, Told(second.battle, second.entries[1:]), ghost, *others]
    assert run.verdict() == (
        f"FAILED: 1 not told to the audit ({third.battle}); 1 told to the audit more than once ({first.battle}); "
        "1 told to the audit though they were not settled (ghosts) (ghost); "
        f"1 told to the audit otherwise than in the ledger ({second.battle})"
    )


@pytest.mark.parametrize("kill", [Kill("w", running=False, in_hand=3), Kill("w", running=True, in_hand=0)])
def test_a_kill_that_hit_nothing_makes_the_run_void(run, kill):
    run.kill = kill
    assert run.verdict().startswith("FAILED: void: w ")


def test_nothing_at_all_is_not_a_success(tmp_path):
    nowhere = {"ledger": tmp_path / "no.db", "standings": tmp_path / "none.db"}
    evidence = gather(histories=[], copies=[], told=[], dead=[], **nowhere, kill=HIT)
    assert sentence(judge(evidence)) == "FAILED: void: no battle ended"


def test_many_reasons_stay_one_line(run):
    run.damage("DELETE FROM settlement; DELETE FROM entry WHERE n = 0; DELETE FROM gamebroker_inbox")
    run.damage("DELETE FROM standing", standings=True)
    run.copies.append(Copy(99, None, run.battles[0]))
    assert "\n" not in run.verdict()
    assert run.verdict().startswith("FAILED: 12 not settled (r-0, r-1, r-10, ...)")
