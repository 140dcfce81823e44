"""The double-entry ledger: a battle is paid once, in its caller's transaction with everything that follows from it."""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import insert, select
from sqlalchemy.dialects import postgresql, sqlite

from services.events import LEADERBOARD_UPDATE
from services.settlement.rewards import leaderboard_updates, rewards, settled
from services.settlement.tables import ENTRY, SETTLEMENT

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.ext.asyncio import AsyncConnection

    from broker.exactly_once import Outbox
    from services.events import BattleEnded


class ConflictingResult(ValueError):
    """The battle was paid for another result; that one stands, and trying again will not help."""


def payload_hash(ended: BattleEnded) -> str:
    """Equal for equal results, whatever bytes they came as."""
    return hashlib.sha256(msgspec.json.encode(ended)).hexdigest()


class Ledger:
    """The ledger of one database.

    Args:
        outbox: of the same database; points and audit records go into it.
        worker: who pays, for the ledger.
        clock: nanoseconds since the Unix epoch.
    """

    def __init__(self, outbox: Outbox, *, worker: str, clock: Callable[[], int] = time.time_ns) -> None:
        self._outbox = outbox
        self._worker = worker
        self._clock = clock
        dialect: Any = sqlite if outbox.engine.dialect.name == "sqlite" else postgresql
        self._fresh = dialect.insert(SETTLEMENT).on_conflict_do_nothing().returning(SETTLEMENT.c.battle_id)

    async def apply(self, tx: AsyncConnection, ended: BattleEnded, sequence: int) -> bool:
        """Pay the battle unless it was paid; whether it is now.

        The inbox tells repeats by their key; one that comes under another key is told here, by its battle.

        Args:
            tx: what the ledger, the points and the audit record are written in.
            ended: the result.
            sequence: where the stream has it.

        Raises:
            UnpayableResult: no rules pay it; nothing was written.
            ConflictingResult: see there; nothing was written.
        """
        paid, now = rewards(ended), self._clock()
        if not await self._enter(tx, ended, sequence, now):
            return False
        lines = [{"tx": ended.battle_id, "n": n, **msgspec.structs.asdict(each)} for n, each in enumerate(paid)]
        await tx.execute(insert(ENTRY), lines)
        for update in leaderboard_updates(ended):
            await self._outbox.enqueue(tx, LEADERBOARD_UPDATE, update, idempotency_key=update.event_id)
        await self._outbox.send(tx, settled(ended, paid, now))
        return True

    async def _enter(self, tx: AsyncConnection, ended: BattleEnded, sequence: int, now: int) -> bool:
        """Write that it is paid; not when it was, for the same result."""
        digest = payload_hash(ended)
        row = {
            "battle_id": ended.battle_id,
            "payload_hash": digest,
            "room": ended.room,
            "epoch": ended.epoch,
            "rules_version": ended.rules_version,
            "sequence": sequence,
            "worker": self._worker,
            "settled_at": now / 1e9,
        }
        # Two workers at once: the second one waits here until the first one's transaction has ended.
        if (await tx.execute(self._fresh, row)).first() is not None:
            return True
        there = select(SETTLEMENT.c.payload_hash).where(SETTLEMENT.c.battle_id == ended.battle_id)
        if (await tx.execute(there)).scalar_one() != digest:
            raise ConflictingResult(f"{ended.battle_id} was paid for another result")
        return False
