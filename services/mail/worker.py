"""The mail worker: letters and claims, each applied once with what follows from it."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Final, cast

from broker import BrokerError, DecodeError, InvalidSubject
from services.database import relayed
from services.events import MAIL_CONSUMER, Letter, MailCommand, mail_recipient
from services.mail.mailbox import MailConflict, UnknownLetter
from services.worker import take

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from broker import Consumption, StreamBroker, StreamMessage
    from broker.exactly_once import Inbox, Outbox
    from services.connection import Ensure
    from services.events import Claim
    from services.mail.mailbox import Mailbox

log = logging.getLogger("services.mail")

_MAX_DELIVER: Final = 8
"""A database in trouble uses up no attempts; what is left is a claim that came before its letter."""
_OVERTAKEN: Final = (0.2, 1.0, 5.0, 30.0)
"""Seconds until a claim that came before its letter is tried again, by attempt."""
_LOOK_AGAIN: Final = 0.05


class MailWorker:
    """Consumes letters and claims, has letters expire, and relays the audit records.

    Args:
        broker: that is connected.
        mailbox: what it changes.
        inbox: of the mailbox's database.
        outbox: of it, too.
        ack_wait: seconds until a dead worker's messages go to others.
        ensure: whether the consumer is there already.
        sweep_every: seconds between two looks for letters whose time is over.
    """

    def __init__(
        self,
        broker: StreamBroker,
        mailbox: Mailbox,
        inbox: Inbox,
        outbox: Outbox,
        *,
        ack_wait: float = MAIL_CONSUMER.ack_wait,
        ensure: Ensure = "verify",
        sweep_every: float = 1.0,
    ) -> None:
        self._broker = broker
        self._mailbox = mailbox
        self._inbox = inbox
        self._outbox = outbox
        self._ack_wait = ack_wait
        self._ensure: Ensure = ensure
        self._sweep_every = sweep_every
        self._relaying = AsyncExitStack()
        self._sweeping: asyncio.Task[None] | None = None
        self._consumption: Consumption | None = None

    async def start(self) -> Consumption:
        """Begin to work; what an earlier crash left in the outbox goes out first."""
        await self._relaying.enter_async_context(self._outbox.relay(self._broker))
        self._sweeping = asyncio.create_task(self._sweep(), name="sweep letters")
        self._consumption = await take(
            self._broker,
            MAIL_CONSUMER,
            self.handle,
            ack_wait=self._ack_wait,
            ensure=self._ensure,
            inbox=self._inbox,
            max_deliver=_MAX_DELIVER,
        )
        return self._consumption

    async def handle(self, message: StreamMessage, tx: AsyncConnection) -> None:
        """Apply a letter or a claim.

        What can never be applied becomes a dead letter at once, with the reason in words; consuming logs it, in a line.
        """
        try:
            await self._apply(message, tx)
        except (DecodeError, InvalidSubject, MailConflict) as exc:
            await message.term(str(exc))

    async def _apply(self, message: StreamMessage, tx: AsyncConnection) -> None:
        player = mail_recipient(message.subject)
        command = message.decode(cast("type[Letter | Claim]", MailCommand))
        if isinstance(command, Letter):
            await self._mailbox.store(tx, player, command)
            return
        try:
            await self._mailbox.claim(tx, player, command)
        except UnknownLetter:
            if message.attempt >= _MAX_DELIVER:
                raise
            await message.nak(delay=_OVERTAKEN[min(message.attempt, len(_OVERTAKEN)) - 1])

    async def drain(self) -> None:
        """Finish what is in hand, and send the outbox, but for what its stream refuses; see ``relayed``."""
        if self._consumption is not None:
            await self._consumption.drain()
        await self._stop_sweeping()
        await relayed(self._outbox)
        await self._relaying.aclose()

    async def abort(self) -> None:
        """Let go of everything without finishing; what was in hand is redelivered. Idempotent, also after a drain."""
        await self._stop_sweeping()
        await self._relaying.aclose()

    async def _sweep(self) -> None:
        while True:
            more = 0
            try:
                async with self._outbox.transaction() as tx:
                    more = await self._mailbox.expire(tx)
            except BrokerError as exc:  # the database's trouble, for one
                log.warning("no letter expires now: %s", exc)
            await asyncio.sleep(_LOOK_AGAIN if more else self._sweep_every)

    async def _stop_sweeping(self) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
            with suppress(asyncio.CancelledError):
                await self._sweeping
