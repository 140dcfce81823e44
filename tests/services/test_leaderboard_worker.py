from __future__ import annotations

import random
import sqlite3
from contextlib import closing

import pytest

from services.events import LEADERBOARD_UPDATE, LeaderboardUpdate
from services.leaderboard.standings import Standings
from services.leaderboard.worker import LeaderboardWorker


def update(event: str, player: str, points: int) -> LeaderboardUpdate:
    return LeaderboardUpdate(event_id=event, board="season", player=player, points=points, battle_id="b", event_time=1)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "standings.db"


@pytest.fixture
async def worker(sb, path):
    with Standings(path, busy_timeout=0.05) as standings:
        running = LeaderboardWorker(sb, standings)
        await running.start()
        yield running
        await running.drain()


@pytest.mark.usefixtures("worker")
async def test_shuffled_and_repeated_events_count_once(sb, path, sql, eventually):
    events = [update(f"e{n}", f"p{n % 5}", n) for n in range(50)]
    arriving = events + events[:20]
    random.Random(4).shuffle(arriving)
    for n, event in enumerate(arriving):
        await sb.enqueue(LEADERBOARD_UPDATE, event, idempotency_key=f"copy-{n}")
    await eventually(lambda: sql(path, "SELECT count(*) FROM applied") == [(50,)])
    await eventually(lambda: sb.stats.acked == 70)
    assert sql(path, "SELECT player, score FROM standing ORDER BY player") == [
        (f"p{k}", sum(n for n in range(50) if n % 5 == k)) for k in range(5)
    ]


@pytest.mark.usefixtures("worker")
async def test_other_points_under_a_used_id_become_a_dead_letter(sb, path, sql, eventually):
    await sb.enqueue(LEADERBOARD_UPDATE, update("e1", "ann", 5))
    await eventually(lambda: sql(path, "SELECT count(*) FROM applied") == [(1,)])
    await sb.enqueue(LEADERBOARD_UPDATE, update("e1", "ann", 500))
    await sb.enqueue(LEADERBOARD_UPDATE, b"garbage")
    await eventually(lambda: sb.stats.dead_lettered == 2)
    assert sql(path, "SELECT score FROM standing") == [(5,)]


@pytest.mark.usefixtures("worker")
async def test_a_locked_database_delays_an_event_and_loses_nothing(sb, path, sql, eventually):
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        await sb.enqueue(LEADERBOARD_UPDATE, update("e1", "ann", 5))
        await eventually(lambda: sb.stats.naked >= 1)
        other.execute("ROLLBACK")
    await eventually(lambda: sql(path, "SELECT score FROM standing") == [(5,)])
