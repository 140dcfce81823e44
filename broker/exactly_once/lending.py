"""What a handler holds while its transaction is open: the message, with settling noted and carried out afterwards.

An ack before the commit could be followed by a crash, and the message would be lost.
"""

from __future__ import annotations

import logging
from copy import copy
from typing import TYPE_CHECKING

from broker.contracts.errors import BrokerError
from broker.messages import Settler

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from broker.contracts.envelopes import Delivery
    from broker.messages import StreamMessage

log = logging.getLogger("broker.exactly_once")


class Loan(Settler):
    """One message, lent to a handler for one attempt after the other.

    Attributes:
        given_up: whether the handler said ``nak`` or ``term``: then it is not applied.
    """

    def __init__(self, original: StreamMessage) -> None:
        self.given_up = False
        self._original = original
        self._noted: Callable[[], Awaitable[None]] | None = None

    @property
    def in_order(self) -> bool:
        """As the one it was lent from."""
        return self._original.settler.in_order

    def lend(self) -> StreamMessage:
        """A copy for an attempt, so that a redelivery meanwhile renews only the original; nothing is noted yet."""
        self.given_up, self._noted = False, None
        lent = copy(self._original)
        lent.settler = self
        return lent

    async def ack(self, delivery: Delivery, *, confirm: bool) -> None:
        """Noted."""
        del delivery
        self._noted = (lambda: self._original.ack(confirm=True)) if confirm else None

    async def nak(self, delivery: Delivery, *, delay: float | None) -> None:
        """Noted."""
        del delivery
        self._noted, self.given_up = (lambda: self._original.nak(delay=delay)), True

    async def term(self, delivery: Delivery, *, reason: str) -> None:
        """Noted."""
        del delivery
        self._noted, self.given_up = (lambda: self._original.term(reason)), True

    async def in_progress(self, delivery: Delivery) -> None:
        """Sent at once."""
        del delivery
        await self._original.in_progress()

    async def carry_out(self) -> None:
        """Do what was noted; a plain ack is left to the loop, which acks many in one write."""
        if self._noted is not None:
            try:
                await self._noted()
            except BrokerError as exc:
                # Unsettled means redelivered after the ack wait; the inbox knows what was applied.
                log.warning("could not settle %s %d: %s", self._original.stream, self._original.sequence, exc)
