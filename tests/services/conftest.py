from __future__ import annotations

import asyncio
import itertools
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from broker import StreamBroker
from services.events import ALL_STREAMS, Asset, BattleEnded, Letter, PlayerResult

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


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request, tmp_path):
    """An empty one, as ``--database`` takes it."""
    if request.param == "sqlite":
        return str(tmp_path / "service.db")
    return request.getfixturevalue("schema")


@pytest.fixture
def make_letter():
    """A letter with ten coins, that can be claimed until 1,000 ns after 1970."""

    def make(letter_id: str = "l1", **changes: object) -> Letter:
        fields: dict[str, object] = {
            "letter_id": letter_id,
            "sender": "sys:mint:season",
            "title": "Well done",
            "attachments": (Asset(currency="coin", amount=10),),
            "sent_at": 1,
            "expires_at": 1_000,
        }
        return Letter(**(fields | changes))

    return make


@pytest.fixture
async def sb():
    """A broker of its own on the memory backend, with the services' streams."""
    async with StreamBroker.connect(f"memory://services-{next(_HUBS)}") as connected:
        await connected.declare(*ALL_STREAMS)
        yield connected
