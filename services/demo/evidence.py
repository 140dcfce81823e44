"""Gathers what the verdict is judged on: the rooms' own records, the stream, and the two databases by plain SQL.

Nothing here asks a service what it did.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import msgspec

from services.demo.verdict import Copy, Entry, Evidence, Kill
from services.events import BATTLE_SETTLE, SETTLEMENTS, BattleEnded

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from broker import StreamBroker


def records(path: Path) -> list[dict[str, Any]]:
    """The lines of a JSONL record; a line a killed process did not finish is left out."""
    if not path.exists():
        return []
    found: list[dict[str, Any]] = [
        msgspec.json.decode(line) for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")
    ]
    return found


def ended_battles(histories: Iterable[Path]) -> list[str]:
    """The battles that rooms wrote down as ended, before they told anyone."""
    return [line["battle_id"] for path in histories for line in records(path) if line["op"] == "ended"]


def rows(path: Path, query: str, *arguments: object) -> list[tuple[Any, ...]]:
    """What a query finds in a database somebody else writes; nothing while there is no such file or table."""
    if not path.exists():
        return []
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=5.0)) as db:
        try:
            return db.execute(query, arguments).fetchall()
        except sqlite3.OperationalError as exc:
            if "no such table" in str(exc):
                return []
            raise


async def stored_copies(broker: StreamBroker) -> list[Copy]:
    """Every message of the settlement stream, as it is now."""
    last = (await broker.streams.info(SETTLEMENTS.name)).state.last_sequence
    copies: list[Copy] = []
    if last:
        async with broker.read(BATTLE_SETTLE, start="first") as messages:
            async for message in messages:
                copies.append(Copy(message.sequence, msgspec.json.decode(message.data, type=BattleEnded)))
                if message.sequence >= last:
                    break
    return copies


def gather(
    *, histories: Sequence[Path], copies: Sequence[Copy], ledger: Path, standings: Path, kill: Kill | None
) -> Evidence:
    """The evidence as it is now."""
    return Evidence(
        ended=ended_battles(histories),
        copies=list(copies),
        settlements=rows(ledger, "SELECT battle_id, sequence FROM settlement"),
        entries=[Entry(*row) for row in rows(ledger, "SELECT tx, account, currency, amount FROM entry")],
        repeats=[sequence for (sequence,) in rows(ledger, "SELECT sequence FROM repeat")],
        quarantined=[battle for (battle,) in rows(ledger, "SELECT battle_id FROM quarantine")],
        standings=rows(standings, "SELECT player, score FROM standing"),
        kill=kill,
    )
