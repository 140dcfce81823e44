"""The leaderboard worker: commit, then ack."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from broker import DecodeError
from services.events import STANDINGS_CONSUMER, LeaderboardUpdate
from services.leaderboard.standings import Applied
from services.worker import take

if TYPE_CHECKING:
    from broker import Consumption, StreamBroker, StreamMessage
    from services.connection import Ensure
    from services.leaderboard.standings import Standings

log = logging.getLogger("services.leaderboard")


class LeaderboardWorker:
    """Consumes points and writes the standings in a thread of its own."""

    def __init__(
        self,
        broker: StreamBroker,
        standings: Standings,
        *,
        ack_wait: float = STANDINGS_CONSUMER.ack_wait,
        ensure: Ensure = "verify",
    ) -> None:
        self._broker = broker
        self._standings = standings
        self._ack_wait = ack_wait
        self._ensure: Ensure = ensure
        # One thread: the standings are one connection, and a wait for its lock must not stop the event loop.
        self._thread = ThreadPoolExecutor(1, "standings")
        self._consumption: Consumption | None = None

    async def start(self) -> Consumption:
        """Begin to work."""
        self._consumption = await take(
            self._broker, STANDINGS_CONSUMER, self.count, ack_wait=self._ack_wait, ensure=self._ensure
        )
        return self._consumption

    async def count(self, message: StreamMessage) -> None:
        """Count one event. Returning acks; a locked database raises, and the message comes again."""
        try:
            update = message.decode(LeaderboardUpdate)
        except DecodeError as exc:
            log.error("message %d is no update: %s", message.sequence, exc)  # noqa: TRY400 - the sentence says it all
            await message.term(str(exc))
            return
        loop = asyncio.get_running_loop()
        applied = await loop.run_in_executor(self._thread, self._standings.apply, update)
        if applied is Applied.CONFLICT:
            log.error("%s came with other points", update.event_id)
            await message.term(f"{update.event_id} was counted with other points")

    async def drain(self) -> None:
        """Finish what is in hand, let the thread go. The standings stay open."""
        if self._consumption is not None:
            await self._consumption.drain()
        self._thread.shutdown()

    async def abort(self) -> None:
        """Let go of everything without finishing; what was in hand is redelivered. Idempotent."""
        self._thread.shutdown()
