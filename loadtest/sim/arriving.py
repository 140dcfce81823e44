"""A source at the other end of the wire: what is delivered, and what is said about it, may not arrive."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from broker.contracts.backend import DeliverySource
from broker.contracts.errors import AckUnknown, ApiError, BrokerClosed, BrokerError, ConnectionLost, RequestTimeout

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from broker.contracts.envelopes import Delivery
    from loadtest.sim.wire import Wire


class WireSource(DeliverySource):
    """A source at the other end of the wire."""

    def __init__(self, wire: Wire, source: DeliverySource) -> None:
        self.stream = source.stream
        self.consumer = source.consumer
        self._wire = wire
        self._source = source
        self._here: deque[Delivery] = deque()

    @property
    def resume_sequence(self) -> int | None:
        """See ``DeliverySource``."""
        resume = self._source.resume_sequence
        return resume if resume is None else min([resume, *(each.sequence for each in self._here)])

    async def fetch(self, limit: int, *, timeout: float, max_bytes: int | None = None) -> Sequence[Delivery]:
        """See ``DeliverySource``."""
        wire = self._wire
        wire.on_call()
        await wire.connected()
        if self._here:
            return self._take(limit)
        if wire.happens(wire.weather.broken):
            raise ConnectionLost("the connection broke")
        await wire.dawdle()
        batch = await self._source.fetch(limit, timeout=timeout, max_bytes=max_bytes)
        for each in batch:
            await self._arrive(each)
        if len(self._here) > 1 and wire.happens(wire.weather.shuffled):
            wire.dice.shuffle(self._here)
        await wire.dawdle()  # cancelled here, what has arrived stays for the next one
        wire.check()
        return self._take(limit)

    async def _arrive(self, delivery: Delivery) -> None:
        wire, weather = self._wire, self._wire.weather
        what = f"{delivery.stream}:{delivery.sequence} attempt {delivery.attempt}"
        if wire.dead or wire.broken or wire.happens(weather.lost_delivery):
            wire.note("delivery lost", what)
            return
        wire.note("delivery", what)
        self._here.append(delivery)
        if wire.happens(weather.repeated):
            wire.note("delivery repeated", what)
            self._here.append(delivery)
        if wire.happens(weather.twice):
            wire.note("delivery again", what)
            await self._source.nak(delivery, delay=0.0)

    def _take(self, limit: int) -> list[Delivery]:
        return [self._here.popleft() for _ in range(min(limit, len(self._here)))]

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """See ``DeliverySource``."""
        self._say("ack", deliveries, lambda each: self._source.ack((each,)))

    async def confirm_ack(self, delivery: Delivery, *, timeout: float) -> None:
        """See ``DeliverySource``."""
        try:
            await self._wire.call("ack", lambda: self._source.confirm_ack(delivery, timeout=timeout), timeout)
        except (ConnectionLost, RequestTimeout, ApiError) as exc:
            raise AckUnknown(str(exc), subject=delivery.subject, stream=self.stream) from exc

    async def nak(self, delivery: Delivery, *, delay: float) -> None:
        """See ``DeliverySource``."""
        self._say("nak", (delivery,), lambda each: self._source.nak(each, delay=delay))

    async def term(self, delivery: Delivery, *, reason: str) -> None:
        """See ``DeliverySource``."""
        self._say("term", (delivery,), lambda each: self._source.term(each, reason=reason))

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        """See ``DeliverySource``."""
        self._say("extend", deliveries, lambda each: self._source.extend((each,)))

    async def rest(self) -> None:
        """See ``DeliverySource``."""
        await self.close()

    async def close(self) -> None:
        """See ``DeliverySource``. What had arrived and nobody fetched is given back."""
        if self._wire.dead:
            return
        left, self._here = self._here, deque()
        with suppress(BrokerError):
            for each in left:
                await self._source.nak(each, delay=0.0)
            await self._source.close()

    def _say(self, word: str, deliveries: Sequence[Delivery], deed: Callable[[Delivery], Awaitable[None]]) -> None:
        """Sent and not answered: it may be lost, late, and overtaken."""
        wire, weather = self._wire, self._wire.weather
        wire.on_call()
        wire.check()
        for each in deliveries:
            what = f"{each.stream}:{each.sequence} attempt {each.attempt}"
            if wire.broken or wire.happens(weather.lost_ack):
                wire.note(word, f"{what} lost")
            elif wire.happens(weather.late_ack):
                wire.note(word, f"{what} late")
                asyncio.get_running_loop().call_later(wire.dice.random() * weather.longest, _now, deed, each)
            else:
                wire.note(word, what)
                _now(deed, each)


def _now(deed: Callable[[Delivery], Awaitable[None]], delivery: Delivery) -> None:
    """The memory backend settles without waiting, so one step is all of it."""
    steps = deed(delivery).__await__()
    with suppress(StopIteration, BrokerClosed):
        next(steps)
