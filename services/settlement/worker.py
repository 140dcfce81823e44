"""The settlement worker: commit, then ack. Whatever dies in between is redelivered and absorbed by the ledger."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

from broker import DecodeError
from services.events import SETTLE_CONSUMER, BattleEnded
from services.settlement.ledger import Delivered, Outcome
from services.settlement.relay import OutboxRelay
from services.settlement.rewards import UnpayableResult
from services.worker import take

if TYPE_CHECKING:
    from broker import Consumption, StreamBroker, StreamMessage
    from services.connection import Ensure
    from services.settlement.ledger import Ledger

log = logging.getLogger("services.settlement")


class SettlementWorker:
    """Consumes results, writes the ledger in a thread of its own, and relays the outbox."""

    def __init__(
        self,
        broker: StreamBroker,
        ledger: Ledger,
        *,
        ack_wait: float = SETTLE_CONSUMER.ack_wait,
        ensure: Ensure = "verify",
    ) -> None:
        self._broker = broker
        self._ledger = ledger
        self._ack_wait = ack_wait
        self._ensure: Ensure = ensure
        # One thread: the ledger is one connection, and a wait for its lock must not stop the event loop.
        self._thread = ThreadPoolExecutor(1, "ledger")
        self._relay = OutboxRelay(broker, ledger, self._thread)
        self._relaying: asyncio.Task[None] | None = None
        self._consumption: Consumption | None = None

    async def start(self) -> Consumption:
        """Begin to work; what an earlier crash left in the outbox goes out first."""
        self._relaying = asyncio.ensure_future(self._relay.run())
        self._consumption = await take(
            self._broker, SETTLE_CONSUMER, self.settle, ack_wait=self._ack_wait, ensure=self._ensure
        )
        return self._consumption

    async def settle(self, message: StreamMessage) -> None:
        """Pay one battle. Returning acks; a locked database raises, and the message comes again."""
        try:
            ended = message.decode(BattleEnded)
            copy = Delivered(message.sequence, message.attempt)
            loop = asyncio.get_running_loop()
            outcome = await loop.run_in_executor(self._thread, self._ledger.apply, ended, copy)
        except (DecodeError, UnpayableResult) as exc:
            log.error("message %d is not payable: %s", message.sequence, exc)  # noqa: TRY400 - the sentence says it all
            await message.term(str(exc))
            return
        if outcome is Outcome.APPLIED:
            self._relay.wake()
        elif outcome is Outcome.CONFLICT:
            log.error("%s came with another result: quarantined, not paid", ended.battle_id)

    async def drain(self) -> None:
        """Finish what is in hand, send the outbox, let the thread go. The ledger stays open."""
        if self._consumption is not None:
            await self._consumption.drain()
        await self._stop_relay()
        await self._relay.finish()
        self._thread.shutdown()

    async def abort(self) -> None:
        """Let go of everything without finishing; what was in hand is redelivered. Idempotent."""
        await self._stop_relay()
        self._thread.shutdown()

    async def _stop_relay(self) -> None:
        if self._relaying is not None:
            self._relaying.cancel()
            with suppress(asyncio.CancelledError):
                await self._relaying
