"""Which way a message goes that is to be tried again: given back for a near attempt, into a schedule for a far one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.settling import ConsumeSettler, PlainSettler

if TYPE_CHECKING:
    from broker.contracts.backend import DeliverySource
    from broker.contracts.envelopes import Delivery
    from broker.contracts.options import ConsumeOptions
    from broker.contracts.status import Stats
    from broker.dead_letters import DeadLetterWriter
    from broker.rescheduling.later import Later


class ReschedulingSettler(ConsumeSettler):
    """Settles as ``ConsumeSettler`` does, but for an attempt that is ``threshold`` seconds away or more."""

    def __init__(
        self,
        source: DeliverySource,
        stats: Stats,
        options: ConsumeOptions,
        letters: DeadLetterWriter | None,
        *,
        later: Later,
        threshold: float,
    ) -> None:
        super().__init__(source, stats, options, letters)
        self._later = later
        self._threshold = threshold

    async def _again(self, delivery: Delivery, error: BaseException | None, delay: float | None) -> None:
        wait = self._backoff(delivery.attempt) if delay is None else delay
        if wait < self._threshold or delivery.attempt >= self._options.max_deliver:
            await super()._again(delivery, error, wait)
        elif await self._later.keep(delivery, wait):
            # Kept for certain by now: without this ack it would merely come twice.
            await self.source.ack((delivery,))
            self._stats.naked += 1
            self._stats.rescheduled += 1
        else:
            await PlainSettler.nak(self, delivery, delay=wait)
