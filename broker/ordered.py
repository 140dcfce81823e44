"""A reader as a source: what a handler gets in order and without gaps, and nothing of it to settle."""

from __future__ import annotations

import asyncio
from operator import attrgetter
from typing import TYPE_CHECKING

from broker.contracts.backend import DeliverySource
from broker.reading import Reader

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from broker.contracts.backend import StreamBackend
    from broker.contracts.codec import Codec
    from broker.contracts.envelopes import Delivery
    from broker.contracts.events import Observe
    from broker.contracts.options import ConsumerOptions


class OrderedSource(DeliverySource):
    """Restarts itself after a gap; settling is heard by nobody, since nothing is on loan."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._given_back: list[Delivery] = []
        self.stream, self.consumer = reader.where

    @property
    def resume_sequence(self) -> int | None:
        """At the first message that was given back unhandled, or else after what was read last."""
        if self._given_back:
            return min(each.sequence for each in self._given_back)
        return self._reader.position + 1 if self._reader.position else None

    async def fetch(self, limit: int, *, timeout: float, max_bytes: int | None = None) -> Sequence[Delivery]:
        """See ``DeliverySource``; the reader decides how many bytes are on their way.

        What was given back comes first: a stream that keeps only what somebody waits for has it no more.
        """
        del max_bytes
        if self._given_back:
            first = sorted(self._given_back, key=attrgetter("sequence"))
            self._given_back = first[limit:]
            return first[:limit]
        try:
            async with asyncio.timeout(timeout):
                return await self._reader.take(limit)
        except TimeoutError:
            return ()

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Nothing is on loan."""

    async def confirm_ack(self, delivery: Delivery, *, timeout: float) -> None:
        """Nothing is on loan."""

    async def nak(self, delivery: Delivery, *, delay: float) -> None:
        """It was not handled: whoever goes on from here begins with it."""
        del delay
        self._given_back.append(delivery)

    async def term(self, delivery: Delivery, *, reason: str) -> None:
        """Nothing is on loan."""

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        """Nothing is on loan."""

    def watch(self, observe: Observe) -> None:
        """See ``DeliverySource``."""
        self._reader.watch(observe)

    async def rest(self) -> None:
        """See ``DeliverySource``."""
        await self._reader.rest()

    async def close(self) -> None:
        """See ``DeliverySource``."""
        await self._reader.__aexit__(None, None, None)


def in_sequence(backend: StreamBackend, codec: Codec) -> Callable[[ConsumerOptions], Awaitable[DeliverySource]]:
    """What opens a consumer in order."""

    async def open_consumer(options: ConsumerOptions) -> DeliverySource:
        reader = Reader(options, None, backend=backend, codec=codec)
        await reader.__aenter__()
        return OrderedSource(reader)

    return open_consumer
