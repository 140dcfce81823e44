"""The settlement worker: mark, payment and what follows from it in one transaction, then the ack."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

from broker import DecodeError
from services.database import relayed
from services.events import SETTLE_CONSUMER, BattleEnded
from services.settlement.ledger import ConflictingResult
from services.settlement.rewards import UnpayableResult
from services.worker import take

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from broker import Consumption, StreamBroker, StreamMessage
    from broker.exactly_once import Inbox, Outbox
    from services.connection import Ensure
    from services.settlement.ledger import Ledger

log = logging.getLogger("services.settlement")

CONFLICT: Final = "conflict"
"""The reason of a dead letter with another result of a battle; what the inbox says when it has the same key, too."""


class SettlementWorker:
    """Consumes results, pays them, and relays what follows: points for the leaderboard, records for the audit.

    Args:
        broker: that is connected.
        ledger: what it writes.
        inbox: of the ledger's database.
        outbox: of it, too.
        ack_wait: seconds until a dead worker's messages go to others.
        ensure: whether the consumer is there already.
    """

    def __init__(
        self,
        broker: StreamBroker,
        ledger: Ledger,
        inbox: Inbox,
        outbox: Outbox,
        *,
        ack_wait: float = SETTLE_CONSUMER.ack_wait,
        ensure: Ensure = "verify",
    ) -> None:
        self._broker = broker
        self._ledger = ledger
        self._inbox = inbox
        self._outbox = outbox
        self._ack_wait = ack_wait
        self._ensure: Ensure = ensure
        self._relaying = AsyncExitStack()
        self._consumption: Consumption | None = None

    async def start(self) -> Consumption:
        """Begin to work; what an earlier crash left in the outbox goes out first."""
        await self._relaying.enter_async_context(self._outbox.relay(self._broker))
        self._consumption = await take(
            self._broker,
            SETTLE_CONSUMER,
            self.settle,
            ack_wait=self._ack_wait,
            ensure=self._ensure,
            inbox=self._inbox,
        )
        return self._consumption

    async def settle(self, message: StreamMessage, tx: AsyncConnection) -> None:
        """Pay one battle. What can never be paid becomes a dead letter at once, with the reason in words."""
        try:
            await self._ledger.apply(tx, message.decode(BattleEnded), message.sequence)
        except ConflictingResult as exc:
            log.error("message %d is not paid: %s", message.sequence, exc)  # noqa: TRY400 - the sentence says it all
            await message.term(CONFLICT)
        except (DecodeError, UnpayableResult) as exc:
            log.error("message %d is not payable: %s", message.sequence, exc)  # noqa: TRY400 - the sentence says it all
            await message.term(str(exc))

    async def drain(self) -> None:
        """Finish what is in hand, and send the outbox, but for what its stream refuses; see ``relayed``."""
        if self._consumption is not None:
            await self._consumption.drain()
        await relayed(self._outbox)
        await self._relaying.aclose()

    async def abort(self) -> None:
        """Let go of everything without finishing; what was in hand is redelivered. Idempotent, also after a drain."""
        await self._relaying.aclose()
