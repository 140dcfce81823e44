from __future__ import annotations

import sqlite3
from contextlib import closing

import msgspec
import pytest

from broker import EnqueueManyError, RequestTimeout
from services.events import (
    BATTLE_SETTLE,
    LEADERBOARD,
    LEADERBOARD_UPDATE,
    SETTLE_WORKER,
    SETTLEMENTS,
    LeaderboardUpdate,
)
from services.settlement.ledger import Delivered, Ledger
from services.settlement.worker import SettlementWorker


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.db"


@pytest.fixture
def ledger(path):
    with Ledger(path, worker="w1", busy_timeout=0.05) as open_ledger:
        yield open_ledger


@pytest.fixture
async def worker(sb, ledger):
    running = SettlementWorker(sb, ledger)
    await running.start()
    yield running
    await running.drain()


async def updates(sb) -> list[LeaderboardUpdate]:
    async with sb.read(LEADERBOARD_UPDATE, start="first", until="end") as messages:
        return [msgspec.json.decode(message.data, type=LeaderboardUpdate) async for message in messages]


async def idle(sb) -> bool:
    info = await sb.consumers.info(SETTLEMENTS.name, SETTLE_WORKER)
    return not info.pending and not info.ack_pending


@pytest.mark.usefixtures("worker")
async def test_a_battle_is_paid_acked_and_told_to_the_leaderboard(sb, path, make_battle, sql, eventually):
    await sb.enqueue(BATTLE_SETTLE, make_battle(), idempotency_key="r1-1-1")
    await eventually(lambda: sql(path, "SELECT count(*) FROM outbox WHERE sent_at IS NOT NULL") == [(3,)])
    assert sql(path, "SELECT battle_id, worker FROM settlement") == [("r1-1-1", "w1")]
    assert [(each.player, each.points) for each in await updates(sb)] == [("p1", 120), ("p2", 40), ("p3", 0)]
    assert await idle(sb)


@pytest.mark.usefixtures("worker")
async def test_a_repeat_under_another_key_is_absorbed(sb, path, make_battle, sql, eventually):
    for key in ("r1-1-1", "r1-1-1", "again-1", "again-2"):
        await sb.enqueue(BATTLE_SETTLE, make_battle(), idempotency_key=key)
    await eventually(lambda: sql(path, "SELECT count(*) FROM repeat") == [(2,)])
    await eventually(lambda: sql(path, "SELECT count(*) FROM outbox WHERE sent_at IS NULL") == [(0,)])
    assert sql(path, "SELECT count(*), sum(amount) FROM entry") == [(4, 0)]
    assert len(await updates(sb)) == 3


@pytest.mark.usefixtures("worker")
async def test_a_conflict_is_quarantined_and_the_queue_goes_on(sb, path, make_battle, sql, eventually, caplog):
    await sb.enqueue(BATTLE_SETTLE, make_battle())
    await eventually(lambda: sql(path, "SELECT count(*) FROM settlement") == [(1,)])
    await sb.enqueue(BATTLE_SETTLE, make_battle(scores=(9, 8, 7)))
    await sb.enqueue(BATTLE_SETTLE, make_battle("r1-1-2"))
    await eventually(lambda: sql(path, "SELECT count(*) FROM settlement") == [(2,)])
    assert sql(path, "SELECT battle_id FROM quarantine") == [("r1-1-1",)]
    assert "quarantined, not paid" in caplog.text
    assert [letter async for letter in sb.dead_letters.list()] == []


@pytest.mark.parametrize("poison", [b"garbage", b'{"battle_id":"x"}', "unpayable"])
@pytest.mark.usefixtures("worker")
async def test_what_can_never_be_paid_becomes_a_dead_letter_and_blocks_nobody(
    sb, path, make_battle, sql, eventually, poison
):
    body = make_battle("r1-1-9", rules_version=99) if poison == "unpayable" else poison
    await sb.enqueue(BATTLE_SETTLE, body)
    await sb.enqueue(BATTLE_SETTLE, make_battle())
    await eventually(lambda: sql(path, "SELECT battle_id FROM settlement") == [("r1-1-1",)])
    letters = []
    while not letters:
        letters = [letter async for letter in sb.dead_letters.list()]
    assert len(letters) == 1


@pytest.mark.usefixtures("worker")
async def test_a_locked_database_delays_a_battle_and_loses_nothing(sb, path, make_battle, sql, eventually, caplog):
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        await sb.enqueue(BATTLE_SETTLE, make_battle())
        await eventually(lambda: "database is locked" in caplog.text)
        assert sql(path, "SELECT count(*) FROM settlement") == [(0,)]
        other.execute("ROLLBACK")
    await eventually(lambda: sql(path, "SELECT count(*) FROM settlement") == [(1,)])
    assert sb.stats.naked >= 1
    assert [letter async for letter in sb.dead_letters.list()] == []


async def test_what_a_killed_worker_left_in_the_outbox_goes_out_at_the_next_start(
    sb, path, make_battle, eventually, sql
):
    with Ledger(path, worker="killed", clock=lambda: 0.0) as killed:
        killed.apply(make_battle(), Delivered(1))
    with Ledger(path, worker="next") as ledger:
        worker = SettlementWorker(sb, ledger)
        await worker.start()
        await eventually(lambda: sql(path, "SELECT count(*) FROM outbox WHERE sent_at IS NULL") == [(0,)])
        await worker.drain()
    assert len(await updates(sb)) == 3


async def test_a_crash_between_enqueue_and_mark_sends_twice_and_stores_once(sb, path, make_battle, monkeypatch):
    with Ledger(path, worker="w") as ledger:
        ledger.apply(make_battle(), Delivered(1))
        worker = SettlementWorker(sb, ledger)
        with monkeypatch.context() as patched:
            patched.setattr(ledger, "mark_sent", lambda _: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                await worker._relay.relay()
        await worker.drain()
        assert ledger.unsent(limit=10, orphaned_after=0.0) == []
    assert len(await updates(sb)) == 3
    assert (await sb.streams.info(LEADERBOARD.name)).messages == 3


async def test_rows_that_could_not_be_enqueued_stay_in_the_outbox(sb, path, make_battle, monkeypatch):
    async def half(entries, **_: object):
        receipt = await sb.enqueue(entries[0].subject, entries[0].body, idempotency_key=entries[0].idempotency_key)
        raise EnqueueManyError({0: receipt}, {1: RequestTimeout("no answer"), 2: RequestTimeout("no answer")})

    with Ledger(path, worker="w") as ledger:
        ledger.apply(make_battle(), Delivered(1))
        worker = SettlementWorker(sb, ledger)
        with monkeypatch.context() as patched:
            patched.setattr(sb, "enqueue_many", half)
            assert await worker._relay.relay()
        assert [row.key for row in ledger.unsent(limit=10, orphaned_after=0.0)] == ["r1-1-1:p2", "r1-1-1:p3"]
        await worker.drain()
    assert [each.player for each in await updates(sb)] == ["p1", "p2", "p3"]


async def test_two_workers_on_one_file_settle_every_battle_once(sb, path, make_battle, sql, eventually):
    with Ledger(path, worker="a") as first, Ledger(path, worker="b") as second:
        workers = [SettlementWorker(sb, first), SettlementWorker(sb, second)]
        for worker in workers:
            await worker.start()
        for n in range(100):
            await sb.enqueue(BATTLE_SETTLE, make_battle(f"b-{n % 50}"), idempotency_key=f"key-{n}")
        await eventually(lambda: sql(path, "SELECT count(*) FROM repeat") == [(50,)])
        for worker in workers:
            await worker.drain()
    assert sql(path, "SELECT count(*) FROM settlement") == [(50,)]
    assert sql(path, "SELECT count(*), sum(amount) FROM entry") == [(200, 0)]
    assert len({each.event_id for each in await updates(sb)}) == 150
