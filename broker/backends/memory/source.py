"""One worker's view of a memory consumer. Like a real one it knows stream and consumer by name, not by reference."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from broker.contracts.backend import DeliverySource
from broker.contracts.errors import AckUnknown, BrokerClosed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from broker.backends.memory.consumer import MemoryConsumer
    from broker.backends.memory.pull import Pull
    from broker.backends.memory.streams import Streams
    from broker.contracts.envelopes import Delivery


class MemorySource(DeliverySource):
    """Pulls from a consumer and settles with it.

    Args:
        streams: of the hub.
        consumer: as it was when opened.
        check_connected: raises when the connection is closed.
        closed: told when the source closes.
    """

    def __init__(
        self,
        streams: Streams,
        consumer: MemoryConsumer,
        *,
        check_connected: Callable[[], None],
        closed: Callable[[MemorySource], None],
    ) -> None:
        self.stream = consumer.stream
        self.consumer = consumer.name
        self._streams = streams
        self._last = consumer
        self._check_connected = check_connected
        self._on_close = closed
        self._left_over: deque[Delivery] = deque()
        self._pulls: set[Pull] = set()
        self._open = True
        consumer.attach()

    @property
    def resume_sequence(self) -> int | None:
        """One after the ack floor, also after the consumer was deleted; unknown in a stream made anew."""
        stream = self._streams.get(self.stream)
        if stream is not None and not self._last.reads(stream.log):
            return None
        floor = (self._current() or self._last).ack_floor
        unseen = min((each.sequence for each in self._left_over), default=floor + 1)
        return min(floor + 1, unseen)

    async def fetch(self, limit: int, *, timeout: float, max_bytes: int | None = None) -> Sequence[Delivery]:
        """At least one delivery as soon as there is one, at most ``limit``; empty after ``timeout`` seconds."""
        self._check_connected()
        if not self._open:
            raise self._closed()
        if self._left_over:
            return [self._left_over.popleft() for _ in range(min(limit, len(self._left_over)))]
        consumer = self._streams.find(self.stream).find_consumer(self.consumer)
        pull = consumer.pull(limit, timeout, max_bytes)
        self._pulls.add(pull)
        try:
            return await pull.answer
        except asyncio.CancelledError:
            self._keep(pull)
            raise
        finally:
            self._pulls.discard(pull)

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Settled: done."""
        consumer = self._reach()
        if consumer is not None:
            for each in deliveries:
                consumer.ack(_lent(each))

    async def confirm_ack(self, delivery: Delivery, *, timeout: float) -> None:
        """Settled: done; the hub answers at once, or never when the consumer is gone."""
        consumer = self._reach()
        if consumer is None:
            words = f"consumer {self.consumer!r} is gone: no answer to wait {timeout:g} s for"
            raise AckUnknown(words, subject=delivery.subject, stream=self.stream)
        consumer.ack(_lent(delivery))

    async def nak(self, delivery: Delivery, *, delay: float) -> None:
        """Given back: hand it out again after ``delay`` seconds."""
        consumer = self._reach()
        if consumer is not None:
            consumer.nak(_lent(delivery), delay)

    async def term(self, delivery: Delivery, *, reason: str) -> None:
        """Settled: never hand it out again. Nobody reads the reason here."""
        del reason
        await self.ack([delivery])

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        """Still working: the ack wait starts anew."""
        consumer = self._reach()
        if consumer is not None:
            for each in deliveries:
                consumer.extend(_lent(each))

    async def rest(self) -> None:
        """See ``DeliverySource``."""
        self._give_back()

    async def close(self) -> None:
        """Give back what was not fetched; a fetch that waits is refused, as the next one. Idempotent.

        An unnamed consumer is of no use to anybody else and goes along; when the whole connection closes it stays
        until the hub notices, as after a broken connection.
        """
        if not self._open:
            return
        self.release(self._closed())
        stream = self._streams.get(self.stream)
        if stream is not None and self._last.unnamed and self.consumer in stream.consumers:
            stream.delete_consumer(self.consumer)

    def release(self, error: Exception) -> None:
        """Close; a fetch that waits fails with the error."""
        if not self._open:
            return
        self._open = False
        for pull in tuple(self._pulls):
            self._keep(pull)
            pull.fail(error)
        self._give_back()
        self._last.detach()
        self._on_close(self)

    def _give_back(self) -> None:
        consumer = self._current()
        if consumer is not None:
            for each in self._left_over:
                consumer.take_back(each.sequence)
        self._left_over.clear()

    def _closed(self) -> BrokerClosed:
        return BrokerClosed(f"the source on consumer {self.consumer!r} is closed")

    def _keep(self, pull: Pull) -> None:
        """Nobody will see the pull's answer: what it holds stays here."""
        pull.stop_timer()
        answer = pull.answer
        if answer.done() and not answer.cancelled() and answer.exception() is None:
            self._left_over.extend(answer.result())

    def _current(self) -> MemoryConsumer | None:
        stream = self._streams.get(self.stream)
        consumer = stream.consumers.get(self.consumer) if stream is not None else None
        if consumer is not None:
            self._last = consumer
        return consumer

    def _reach(self) -> MemoryConsumer | None:
        """The consumer to settle with; also a closed source can, as long as its connection is open."""
        self._check_connected()
        return self._current()


def _lent(delivery: Delivery) -> int:
    """The sequence that was lent: whoever passes a delivery on may show another."""
    token = delivery.token
    assert isinstance(token, int), "made by a memory consumer"
    return token
