"""What becomes of a lane's message: acked, put aside for its next attempt, or dead with its key behind it."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from broker.contracts.errors import BrokerError
from broker.lanes.records import as_group, turn_of
from broker.letters import FromLane
from broker.settling import MAX_DELIVER, ConsumeSettler, PlainSettler, where

if TYPE_CHECKING:
    from broker.contracts.backend import DeliverySource
    from broker.contracts.envelopes import Delivery
    from broker.contracts.options import ConsumeOptions
    from broker.contracts.status import Stats
    from broker.dead_letters import DeadLetterWriter
    from broker.lanes.lane import LaneConsumption

log = logging.getLogger("broker.lanes")


class LaneSettler(ConsumeSettler):
    """Settles so that nothing of a key overtakes, and no other key of the lane waits.

    Where something cannot be put aside (the server does not answer, no room, too large), the message is given back to
    the lane instead: then the whole lane waits for it, and the order holds all the same.
    """

    def __init__(
        self,
        source: DeliverySource,
        stats: Stats,
        options: ConsumeOptions,
        letters: DeadLetterWriter | None,
        lane: LaneConsumption,
    ) -> None:
        super().__init__(source, stats, options, letters)
        self._lane = lane

    @property
    def in_order(self) -> bool:
        """It is: that is what a lane is for."""
        return True

    async def ack(self, delivery: Delivery, *, confirm: bool) -> None:
        """See ``Settler``."""
        await self._lane.release(delivery)
        await super().ack(delivery, confirm=confirm)

    async def _again(self, delivery: Delivery, error: BaseException | None, delay: float | None) -> None:
        if self._left_alone(delivery):
            return
        if delivery.attempt >= self._options.max_deliver:
            await self._bury(delivery, MAX_DELIVER, error)
            return
        wait = self._backoff(delivery.attempt) if delay is None else delay
        try:
            await self._lane.park(delivery, attempts=delivery.attempt, due=time.time() + wait)
        except BrokerError as exc:
            log.warning("%s waits in its lane, it cannot be put aside: %s", where(delivery), exc)
            await PlainSettler.nak(self, delivery, delay=wait)
            return
        await self.source.ack((delivery,))
        self._stats.naked += 1

    async def refused(self, delivery: Delivery, error: BrokerError) -> None:
        """The lane has no room for its next attempt: that was one, and the last one is a dead letter as ever.

        Raises:
            BrokerError: it is not certain what became of it.
        """
        if delivery.attempt < self._options.max_deliver:
            due = time.time() + self._backoff(delivery.attempt)
            await self._lane.park(delivery, attempts=delivery.attempt, due=due)
            return
        if self._letters is None:
            await self._lane.release(delivery)
        else:
            await self._keep_dead(self._letters, delivery, MAX_DELIVER, error)
        self._stats.terminated += 1

    def _left_alone(self, delivery: Delivery) -> bool:
        """Whether it is not ours to park: we were stalled, and somebody else may have handled it and gone on."""
        if self._lane.lapsed:
            log.warning("%s was held for too long without a sign of life: it comes again", where(delivery))
        return self._lane.lapsed

    async def _drop(self, delivery: Delivery, reason: str) -> None:
        if self._left_alone(delivery):
            return
        try:
            await self._lane.release(delivery)
        except BrokerError as exc:
            log.warning("%s is dropped later, what waits behind it cannot go on yet: %s", where(delivery), exc)
            await PlainSettler.nak(self, delivery, delay=self._backoff(delivery.attempt))
            return
        await PlainSettler.term(self, delivery, reason=reason)

    async def _bury(self, delivery: Delivery, reason: str, error: BaseException | None) -> None:
        if self._letters is None:
            await self._drop(delivery, reason)
            return
        if self._left_alone(delivery):
            return
        try:
            await self._keep_dead(self._letters, delivery, reason, error)
        except BrokerError as exc:
            # Not certain to be kept, so it must not be terminated: it comes again and is buried then.
            log.exception("dead letter for %s not stored: %s", where(delivery), exc)  # noqa: TRY401 - its text is the point
            await PlainSettler.nak(self, delivery, delay=self._backoff(delivery.attempt))
            return
        await PlainSettler.term(self, delivery, reason=reason)

    async def _keep_dead(
        self, letters: DeadLetterWriter, delivery: Delivery, reason: str, error: BaseException | None
    ) -> None:
        lane = FromLane(delivery.lane_key or "", self._lane.stream_made, turn_of(delivery) or 0)
        told = as_group(delivery, self._lane.queue)
        letter = await letters.write(told, reason=reason, error=error, lane=lane)
        await self._lane.park(delivery, attempts=delivery.attempt, letter=letter)
