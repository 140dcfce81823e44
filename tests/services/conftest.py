from __future__ import annotations

import asyncio
import itertools
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from broker import StreamBroker
from services.events import LEADERBOARD, SETTLEMENTS, BattleEnded, PlayerResult

if TYPE_CHECKING:
    from pathlib import Path

_HUBS = itertools.count(1)


@pytest.fixture(scope="session")
def make_battle():
    """A battle of players p1, p2, ... who came in that order."""

    def make(battle_id: str = "r1-1-1", scores: tuple[int, ...] = (120, 40, 0), **changes: object) -> BattleEnded:
        fields: dict[str, object] = {
            "battle_id": battle_id,
            "room": "r1",
            "epoch": 1,
            "rules_version": 1,
            "seed": 42,
            "ticks": 100,
            "ended_at": 1_000,
            "results": tuple(
                PlayerResult(player=f"p{n}", place=n, score=score) for n, score in enumerate(scores, start=1)
            ),
        }
        return BattleEnded(**(fields | changes))

    return make


@pytest.fixture(scope="session")
def sql():
    """Rows of a query on a database file."""

    def ask(path: Path, query: str) -> list[tuple]:
        with closing(sqlite3.connect(path)) as db:
            return db.execute(query).fetchall()

    return ask


@pytest.fixture
def eventually():
    """Wait until a condition holds, or fail after ten seconds."""

    async def wait(condition, timeout: float = 10.0) -> None:
        async with asyncio.timeout(timeout):
            while not condition():  # noqa: ASYNC110 - what is waited for happens in other processes
                await asyncio.sleep(0.01)

    return wait


@pytest.fixture
async def sb():
    """A broker of its own on the memory backend, with the services' streams."""
    async with StreamBroker.connect(f"memory://services-{next(_HUBS)}") as connected:
        await connected.declare(SETTLEMENTS, LEADERBOARD)
        yield connected
