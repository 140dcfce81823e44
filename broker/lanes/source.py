"""A lane's consumer, as the worker who holds the lane sees it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from broker.contracts.backend import DeliverySource

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from broker.contracts.envelopes import Delivery
    from broker.contracts.events import Observe

    Recall = Callable[[Delivery], Awaitable[Delivery | None]]
    """The message that a next attempt is one at; ``None`` when there is nothing to try any more."""

_OPEN: Final = 64
"""Messages a lane asks for at a time: the server sends one and, as soon as it is settled, the next one unasked."""
_REMEMBERED: Final = 1024


class Past:
    """What was settled here of one lane: more than the server may have been told, and longer than its consumer lives.

    Attributes:
        made: when the stream was made that it is about.
        floor: the last one settled, with all before it; 0 when there is none.
    """

    def __init__(self, made: int = 0) -> None:
        self.made = made
        self.floor = 0
        self._settled: dict[tuple[int, int], None] = {}

    def __contains__(self, stored: tuple[int, int]) -> bool:
        return stored in self._settled

    def add(self, stored: tuple[int, int]) -> None:
        """That one (its sequence, and when it was stored) is settled."""
        self.floor = max(self.floor, stored[0])
        self._settled[stored] = None
        while len(self._settled) > _REMEMBERED:
            del self._settled[next(iter(self._settled))]


class LaneSource(DeliverySource):
    """A lane's consumer.

    Attributes:
        missed: somebody else may have had messages of this lane since the last one.

    Args:
        source: the consumer.
        hold: seconds a message in hand is ours without being extended.
        past: what was settled here before.
        recall: what a next attempt is one at.
    """

    def __init__(self, source: DeliverySource, hold: float, past: Past, recall: Recall) -> None:
        self.stream = source.stream
        self.consumer = source.consumer
        self.missed = True
        self._source = source
        self._count = 0
        self._in_hand: dict[int, tuple[int, int]] = {}
        self._past = past
        self._recall = recall
        self._hold = hold
        self._clock = asyncio.get_running_loop().time
        self._held_since = 0.0
        self._lapsed = False

    @property
    def lapsed(self) -> bool:
        """Whether what is in hand may be somebody else's by now: this process was stalled for too long."""
        return self._lapsed or self._clock() - self._held_since > self._hold

    @property
    def resume_sequence(self) -> int | None:
        """See ``DeliverySource``."""
        return self._source.resume_sequence

    async def fetch(self, limit: int, *, timeout: float, max_bytes: int | None = None) -> Sequence[Delivery]:
        """See ``DeliverySource``. Next attempts come as the messages they are attempts at."""
        batch = await self._source.fetch(max(limit, _OPEN), timeout=timeout, max_bytes=max_bytes)
        if batch:
            self._held_since, self._lapsed = self._clock(), False
        news = [each for each in batch if await self._is_news(each)]
        return [whole for each in news if (whole := await self._whole(each)) is not None]

    async def _whole(self, delivery: Delivery) -> Delivery | None:
        if not delivery.again:
            return delivery
        try:
            whole = await self._recall(delivery)
        except BaseException:
            await self._source.nak(delivery, delay=0.0)
            raise
        if whole is None:
            await self.ack((delivery,))
        return whole

    async def _is_news(self, delivery: Delivery) -> bool:
        """Whether it is not just a repeat of what was settled here a moment ago."""
        if delivery.consumer_sequence != self._count + 1:
            self.missed = True
        self._count = delivery.consumer_sequence
        stored = (delivery.sequence, delivery.timestamp_ns)
        if stored in self._past:
            await self._source.ack((delivery,))
            return False
        self._in_hand[delivery.consumer_sequence] = stored
        if len(self._in_hand) > _OPEN:
            del self._in_hand[next(iter(self._in_hand))]
        return True

    def _done(self, deliveries: Sequence[Delivery]) -> None:
        for each in deliveries:
            stored = self._in_hand.pop(each.consumer_sequence, None)
            if stored is not None:
                self._past.add(stored)

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """See ``DeliverySource``."""
        self._done(deliveries)
        await self._source.ack(deliveries)

    async def confirm_ack(self, delivery: Delivery, *, timeout: float) -> None:
        """See ``DeliverySource``."""
        await self._source.confirm_ack(delivery, timeout=timeout)
        self._done((delivery,))

    async def nak(self, delivery: Delivery, *, delay: float) -> None:
        """See ``DeliverySource``."""
        await self._source.nak(delivery, delay=delay)

    async def term(self, delivery: Delivery, *, reason: str) -> None:
        """See ``DeliverySource``."""
        self._done((delivery,))
        await self._source.term(delivery, reason=reason)

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        """See ``DeliverySource``."""
        self._lapsed = self.lapsed
        self._held_since = self._clock()
        await self._source.extend(deliveries)

    def watch(self, observe: Observe) -> None:
        """See ``DeliverySource``."""
        self._source.watch(observe)

    async def close(self) -> None:
        """See ``DeliverySource``."""
        await self._source.close()
