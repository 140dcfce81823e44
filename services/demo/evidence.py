"""Gathers what the verdict is judged on: the rooms' own records, the stream, and the two databases by plain SQL.

Nothing here asks a service what it did.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

import msgspec

from services.demo.verdict import Copy, Entry, Evidence, Kill, Told
from services.events import AUDIT, BATTLE_SETTLE, SETTLE_WORKER, SETTLEMENTS, BattleEnded, SettlementRecord

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence
    from pathlib import Path

    from broker import StreamBroker, StreamMessage

_AUDITED: Final = "audit.settlement"
_APPLIED: Final = "SELECT key FROM gamebroker_inbox WHERE consumer = ? AND subject = ?"


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
    return [
        Copy(message.sequence, message.idempotency_key, msgspec.json.decode(message.data, type=BattleEnded))
        async for message in _stored(broker, SETTLEMENTS.name, BATTLE_SETTLE)
    ]


async def told_to_audit(broker: StreamBroker) -> list[Told]:
    """Every record of the settlement service in the audit stream, as it is now."""
    found: list[Told] = []
    async for message in _stored(broker, AUDIT.name, _AUDITED):
        record = msgspec.json.decode(message.data, type=SettlementRecord)
        [battle] = (about.removeprefix("battle:") for about in record.about)
        entries = (Entry(battle, each.account, each.currency, each.amount) for each in record.postings)
        found.append(Told(battle, tuple(entries)))
    return found


async def dead_letters(broker: StreamBroker) -> list[str]:
    """Every message that gave up, as it is now, and why."""
    return [f"{letter.stream} {letter.stream_sequence}: {letter.reason}" async for letter in broker.dead_letters.list()]


async def _stored(broker: StreamBroker, stream: str, subject: str) -> AsyncIterator[StreamMessage]:
    async with broker.read(subject, stream=stream, start="first", until="end") as messages:
        async for message in messages:
            yield message


def gather(
    *,
    histories: Sequence[Path],
    copies: Sequence[Copy],
    told: Sequence[Told],
    dead: Sequence[str],
    ledger: Path,
    standings: Path,
    kill: Kill | None,
) -> Evidence:
    """The evidence as it is now."""
    return Evidence(
        ended=ended_battles(histories),
        copies=list(copies),
        settlements=[battle for (battle,) in rows(ledger, "SELECT battle_id FROM settlement")],
        entries=[Entry(*row) for row in rows(ledger, "SELECT tx, account, currency, amount FROM entry")],
        applied=[key for (key,) in rows(ledger, _APPLIED, SETTLE_WORKER, BATTLE_SETTLE)],
        told=list(told),
        dead_letters=list(dead),
        standings=rows(standings, "SELECT player, score FROM standing"),
        kill=kill,
    )
