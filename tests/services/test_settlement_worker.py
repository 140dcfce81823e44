from __future__ import annotations

import asyncio
import sqlite3
from contextlib import asynccontextmanager, closing
from dataclasses import replace

import msgspec
import pytest
from sqlalchemy import text

from broker.exactly_once import hooks
from services.database import opened, relayed
from services.demo.evidence import dead_letters
from services.events import (
    AUDIT,
    BATTLE_SETTLE,
    LEADERBOARD,
    LEADERBOARD_UPDATE,
    MOST_PLAYERS,
    SETTLE_WORKER,
    SETTLEMENTS,
    AuditRecord,
    BattleEnded,
    LeaderboardUpdate,
)
from services.settlement.ledger import Ledger
from services.settlement.tables import METADATA
from services.settlement.worker import SettlementWorker

UNSENT = "SELECT count(*) FROM gamebroker_outbox WHERE sent_at IS NULL"
SETTLED = "SELECT count(*) FROM settlement"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.db"


@pytest.fixture
async def forgetful(sb):
    """The stream of results knows a key for a tenth of a second."""
    await sb.streams.delete(SETTLEMENTS.name)
    await sb.declare(replace(SETTLEMENTS, duplicate_window=0.1))


@asynccontextmanager
async def working(sb, path, name="w1"):
    """A worker with its own hold of the database; what it does not drain it drops."""
    async with opened(str(path), METADATA) as (inbox, outbox):
        worker = SettlementWorker(sb, Ledger(outbox, worker=name), inbox, outbox)
        worker.inbox, worker.outbox = inbox, outbox
        consumption = await worker.start()
        try:
            yield worker
        finally:
            await worker.abort()
            await consumption.drain()


@pytest.fixture
async def worker(sb, path):
    async with working(sb, path) as running:
        yield running
        await running.drain()


async def committed(path, battle):
    """By a worker that was killed before it could do anything else."""
    async with opened(str(path), METADATA) as (_, outbox), outbox.transaction() as tx:
        assert await Ledger(outbox, worker="killed").apply(tx, battle, 1)


async def updates(sb) -> list[LeaderboardUpdate]:
    async with sb.read(LEADERBOARD_UPDATE, start="first", until="end") as messages:
        return [msgspec.json.decode(message.data, type=LeaderboardUpdate) async for message in messages]


async def told(sb) -> list[AuditRecord]:
    async with sb.read("audit.settlement", start="first", until="end") as messages:
        return [msgspec.json.decode(message.data, type=AuditRecord) async for message in messages]


async def idle(sb) -> bool:
    info = await sb.consumers.info(SETTLEMENTS.name, SETTLE_WORKER)
    return not info.pending and not info.ack_pending


@pytest.mark.usefixtures("worker")
async def test_a_battle_is_paid_acked_and_told_to_the_leaderboard_and_the_audit(sb, path, make_battle, sql, eventually):
    await sb.enqueue(BATTLE_SETTLE, make_battle(), idempotency_key="r1-1-1")
    await eventually(lambda: sql(path, SETTLED) == [(1,)] and sql(path, UNSENT) == [(0,)])
    assert sql(path, "SELECT battle_id, worker FROM settlement") == [("r1-1-1", "w1")]
    assert [(each.player, each.points) for each in await updates(sb)] == [("p1", 120), ("p2", 40), ("p3", 0)]
    [record] = await told(sb)
    assert (record.record_id, record.action) == ("settle:r1-1-1", "settle")
    booked = sql(path, "SELECT account, currency, amount FROM entry ORDER BY n")
    assert [(each.account, each.currency, each.amount) for each in record.postings] == booked
    assert await idle(sb)


async def test_a_repeat_under_another_key_is_absorbed(sb, path, worker, make_battle, sql, eventually):
    for key in ("r1-1-1", "r1-1-1", "again-1", "again-2"):
        await sb.enqueue(BATTLE_SETTLE, make_battle(), idempotency_key=key)
    await eventually(lambda: worker.inbox.stats.applied == 3)
    assert sql(path, "SELECT key FROM gamebroker_inbox ORDER BY key") == [("again-1",), ("again-2",), ("r1-1-1",)]
    await eventually(lambda: sql(path, UNSENT) == [(0,)])
    assert sql(path, "SELECT count(*), sum(amount) FROM entry") == [(4, 0)]
    assert (len(await updates(sb)), len(await told(sb))) == (3, 1)


@pytest.mark.usefixtures("forgetful")
async def test_a_repeat_is_absorbed_when_the_stream_has_forgotten_its_key(sb, path, make_battle, sql, eventually):
    async with working(sb, path) as worker:
        for _ in range(2):
            assert not (await sb.enqueue(BATTLE_SETTLE, make_battle(), idempotency_key="r1-1-1")).duplicate
            await asyncio.sleep(0.2)
        await eventually(lambda: worker.inbox.stats.duplicates == 1)
        await worker.drain()
    assert sql(path, "SELECT count(*), sum(amount) FROM entry") == [(4, 0)]
    assert (len(await updates(sb)), len(await told(sb))) == (3, 1)


@pytest.mark.usefixtures("forgetful")
async def test_a_conflict_is_a_dead_letter_whatever_its_key_and_the_queue_goes_on(
    sb, path, make_battle, sql, eventually, caplog
):
    other = make_battle(scores=(9, 8, 7))
    async with working(sb, path) as worker:
        await sb.enqueue(BATTLE_SETTLE, make_battle(), idempotency_key="r1-1-1")
        await eventually(lambda: sql(path, SETTLED) == [(1,)])
        await asyncio.sleep(0.2)
        for key in ("r1-1-1", "another"):
            await sb.enqueue(BATTLE_SETTLE, other, idempotency_key=key)
        await sb.enqueue(BATTLE_SETTLE, make_battle("r1-1-2"), idempotency_key="r1-1-2")
        await eventually(lambda: sql(path, SETTLED) == [(2,)] and sb.stats.dead_lettered == 2)
        await worker.drain()
    letters = [letter async for letter in sb.dead_letters.list()]
    assert [msgspec.json.decode(letter.data, type=BattleEnded) for letter in letters] == [other] * 2
    assert sorted(await dead_letters(sb)) == ["SETTLEMENTS 2: conflict", "SETTLEMENTS 3: conflict"]
    assert "was applied with another body" in caplog.text
    assert "r1-1-1 was paid for another result" in caplog.text
    assert sql(path, "SELECT sum(amount) FROM entry WHERE tx = 'r1-1-1' AND amount > 0") == [(216,)]
    assert (len(await updates(sb)), len(await told(sb))) == (6, 2)
    assert await idle(sb)


POISON = {
    "garbage": (b"garbage", "json"),
    "half": (b'{"battle_id":"x"}', "missing required field"),
    "unpayable": ({"rules_version": 99}, "r1-1-9: no rules of version 99"),
    "too many": ({"scores": (0,) * (MOST_PLAYERS + 1)}, "length <= 1000"),
}


@pytest.mark.usefixtures("worker")
async def test_what_can_never_be_paid_becomes_a_dead_letter_and_blocks_nobody(sb, path, make_battle, sql, eventually):
    for key, (poison, _) in POISON.items():
        body = poison if isinstance(poison, bytes) else make_battle("r1-1-9", **poison)
        await sb.enqueue(BATTLE_SETTLE, body, idempotency_key=key)
    await sb.enqueue(BATTLE_SETTLE, make_battle(), idempotency_key="r1-1-1")
    await eventually(lambda: sb.stats.dead_lettered == len(POISON))
    await eventually(lambda: sql(path, "SELECT battle_id FROM settlement") == [("r1-1-1",)])
    reasons = {letter.idempotency_key: letter.reason async for letter in sb.dead_letters.list()}
    assert reasons.keys() == POISON.keys()
    for key, (_, words) in POISON.items():
        assert words in reasons[key].lower(), reasons[key]
    assert sql(path, "SELECT key FROM gamebroker_inbox") == [("r1-1-1",)], "a dead letter may be replayed"


@pytest.mark.usefixtures("worker")
async def test_a_locked_database_delays_a_battle_and_loses_nothing(sb, path, make_battle, sql, eventually):
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        await sb.enqueue(BATTLE_SETTLE, make_battle(), idempotency_key="r1-1-1")
        await asyncio.sleep(0.3)
        assert sql(path, SETTLED) == [(0,)]
        assert sb.stats.naked == 0, "it waits, and uses up no attempt"
        other.execute("ROLLBACK")
    await eventually(lambda: sql(path, SETTLED) == [(1,)])
    assert await dead_letters(sb) == []


async def test_a_crash_between_commit_and_ack_pays_once(sb, path, worker, make_battle, sql, eventually, monkeypatch):
    reached = []

    def crash(point):
        # Of the inbox's transaction: writers of one file take turns, and relays write no marks.
        if point == "mid_batch":
            reached.append(point)
        if point == "after_commit" and reached == ["mid_batch"]:
            reached.append("crash")
            raise RuntimeError("committed, and never acked")

    monkeypatch.setattr(hooks, "_hooks", [crash])
    await sb.enqueue(BATTLE_SETTLE, make_battle(), idempotency_key="r1-1-1")
    await eventually(lambda: worker.inbox.stats.duplicates == 1)
    assert reached == ["mid_batch", "crash"], "the handler did not run again"
    assert worker.inbox.stats.applied == 0
    await eventually(lambda: sql(path, UNSENT) == [(0,)])
    assert sql(path, "SELECT count(*), sum(amount) FROM entry") == [(4, 0)]
    assert (len(await updates(sb)), len(await told(sb))) == (3, 1)
    assert await dead_letters(sb) == []


async def test_what_a_killed_worker_left_in_the_outbox_goes_out_at_the_next_start(
    sb, path, make_battle, eventually, sql
):
    await committed(path, make_battle())
    assert sql(path, UNSENT) == [(4,)]
    async with working(sb, path) as worker:
        await eventually(lambda: sql(path, UNSENT) == [(0,)])
        await worker.drain()
    assert (len(await updates(sb)), len(await told(sb))) == (3, 1)


async def test_a_crash_between_storing_and_marking_sends_twice_and_stores_once(
    sb, path, make_battle, eventually, sql, monkeypatch
):
    await committed(path, make_battle())

    def crash(point):
        if point == "before_mark" and sb.stats.enqueued:
            raise RuntimeError("stored, and never marked")

    with monkeypatch.context() as patched:
        patched.setattr(hooks, "_hooks", [crash])
        async with working(sb, path) as worker:
            await eventually(lambda: worker.outbox.stats.sent == 4)
    assert sql(path, UNSENT) == [(4,)]
    async with working(sb, path) as worker:
        await eventually(lambda: sql(path, UNSENT) == [(0,)])
        assert worker.outbox.stats.duplicates == 4
    for stream, stored in ((LEADERBOARD, 3), (AUDIT, 1)):
        assert (await sb.streams.info(stream.name)).messages == stored


@pytest.mark.parametrize("how", ["missing", "full"])
async def test_what_the_audit_stream_refuses_holds_up_no_points(sb, path, make_battle, sql, eventually, caplog, how):
    if how == "missing":
        await sb.streams.delete(AUDIT.name)
    else:
        await sb.declare(replace(AUDIT, max_msgs=1), ensure="update")
        await sb.enqueue("audit.mail", b"fills it")
    async with working(sb, path) as worker:
        for n in range(5):
            await sb.enqueue(BATTLE_SETTLE, make_battle(f"b-{n}"), idempotency_key=f"b-{n}")
            # Those that were refused wait beside, not before.
            await eventually(lambda n=n: sql(path, UNSENT) == [(n + 1,)])
        assert len(await updates(sb)) == 15
        await relayed(worker.outbox, patience=0.05)
        assert "5 messages stay in the outbox" in caplog.text
        assert sql(path, "SELECT DISTINCT subject, attempts > 0 FROM gamebroker_outbox WHERE sent_at IS NULL") == [
            ("audit.settlement", 1)
        ]
        await sb.declare(AUDIT, ensure="update")
        await eventually(lambda: sql(path, UNSENT) == [(0,)], 20)
    assert sorted(record.record_id for record in await told(sb)) == [f"settle:b-{n}" for n in range(5)]
    assert len(await updates(sb)) == 15


async def test_two_workers_on_one_database_settle_every_battle_once(sb, database, make_battle, eventually):
    async with working(sb, database, "a") as first, working(sb, database, "b") as second:
        for n in range(60):
            await sb.enqueue(BATTLE_SETTLE, make_battle(f"b-{n % 30}"), idempotency_key=f"key-{n}")
        await eventually(lambda: first.inbox.stats.applied + second.inbox.stats.applied == 60)
        for worker in (first, second):
            await worker.drain()
        async with first.outbox.engine.connect() as connection:
            found = await connection.execute(text("SELECT count(*), sum(amount), count(DISTINCT tx) FROM entry"))
            assert tuple(found.one()) == (120, 0, 30)
    assert len({each.event_id for each in await updates(sb)}) == len(await updates(sb)) == 90
    assert len({each.record_id for each in await told(sb)}) == len(await told(sb)) == 30
    assert await dead_letters(sb) == []
