"""A group's messages and what comes back to it, as one source."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextlib import suppress
from copy import copy
from typing import TYPE_CHECKING, Final

from broker.contracts.backend import DeliverySource
from broker.contracts.errors import BrokerError, ConnectionLost, ConsumerNotFound, RequestTimeout, StreamNotFound
from broker.rescheduling.copies import as_first_stored

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.contracts.envelopes import Delivery
    from broker.contracts.events import Observe

log = logging.getLogger("broker.rescheduling")

_FETCH: Final = 30.0
_AT_ONCE: Final = 8
"""Messages asked for at a time, so that no busy worker keeps more of them from the others."""
_PAUSE: Final = 0.5
_EXTENDS_PER_WAIT: Final = 3


class ReturningSource(DeliverySource):
    """Two consumers behind one: the group's own, and the one that brings back what waited.

    What came back goes first. It is asked for only while the caller waits for something, a few at a time and no more
    than the caller had room for then. Both consumers may give at once what there was room for once: what is too much is
    kept until there is room again, and extended meanwhile.

    Args:
        first: the group's own consumer.
        later: brings back what waited.
        ack_wait: seconds a message in hand is ours without being extended.
    """

    def __init__(self, first: DeliverySource, later: DeliverySource, *, ack_wait: float) -> None:
        self.stream = first.stream
        self.consumer = first.consumer
        self._first = first
        self._later = later
        self._hold = ack_wait / _EXTENDS_PER_WAIT
        self._loop = asyncio.get_running_loop()
        self._room = 1
        self._max_bytes: int | None = None
        self._asked = asyncio.Event()
        self._taken = asyncio.Event()
        self._back: deque[Delivery] = deque()
        self._failure: Exception | None = None
        self._wait: asyncio.Timeout | None = None
        self._closing: asyncio.Task[None] | None = None
        self._bringer = self._loop.create_task(self._bring_back(), name=f"bring back {self.consumer}")

    @property
    def resume_sequence(self) -> int | None:
        """See ``DeliverySource``. What waits elsewhere needs no such place."""
        return self._first.resume_sequence

    async def fetch(self, limit: int, *, timeout: float, max_bytes: int | None = None) -> Sequence[Delivery]:
        """See ``DeliverySource``. What came back comes as the messages they are copies of."""
        if not self._back and self._failure is None:
            self._room, self._max_bytes = min(limit, _AT_ONCE), max_bytes
            batch = await self._first_or_news(limit, timeout, max_bytes)
            if batch:
                return batch
        if not self._back and self._failure is not None:
            raise copy(self._failure)
        taken = [self._back.popleft() for _ in range(min(limit, len(self._back)))]
        if not self._back:
            self._taken.set()
        return taken

    async def _first_or_news(self, limit: int, timeout: float, max_bytes: int | None) -> Sequence[Delivery]:
        """The group's own messages; nothing when something came back, or went wrong, meanwhile."""
        self._asked.set()
        try:
            async with asyncio.timeout(None) as self._wait:
                return await self._first.fetch(limit, timeout=timeout, max_bytes=max_bytes)
        except TimeoutError as exc:
            if isinstance(exc, BrokerError):
                raise
            return ()  # cut short, which loses nothing
        finally:
            self._wait = None
            self._asked.clear()

    # -- what comes back

    async def _bring_back(self) -> None:
        try:
            while True:
                await self._asked.wait()
                self._back.extend(await self._arrived())
                if self._back:
                    self._taken.clear()
                    self._cut_short()
                    await self._until_taken()
        except StreamNotFound as exc:
            # To the group it is its consumer that is gone: made again with its stream, as that is.
            self._failure = ConsumerNotFound(f"what waits for {self.consumer!r}: {exc}", stream=self.stream)
        except Exception as exc:  # noqa: BLE001 - whoever fetches is told
            self._failure = exc
        self._cut_short()

    async def _arrived(self) -> Sequence[Delivery]:
        try:
            batch = await self._later.fetch(self._room, timeout=_FETCH, max_bytes=self._max_bytes)
        except (ConnectionLost, RequestTimeout) as exc:
            log.warning("asking for what waits for %s: %s", self.consumer, exc)
            await asyncio.sleep(_PAUSE)
            return ()
        return [as_first_stored(each, self.stream, self.consumer) for each in batch]

    async def _until_taken(self) -> None:
        while self._back:
            try:
                async with asyncio.timeout(self._hold):
                    await self._taken.wait()
            except TimeoutError:
                with suppress(BrokerError):
                    await self._later.extend(tuple(self._back))

    def _cut_short(self) -> None:
        wait, self._wait = self._wait, None
        if wait is not None:
            wait.reschedule(self._loop.time())

    # -- settling

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """See ``DeliverySource``."""
        own, copies = _apart(deliveries)
        if own:
            await self._first.ack(own)
        if copies:
            await self._later.ack(copies)

    async def confirm_ack(self, delivery: Delivery, *, timeout: float) -> None:
        """See ``DeliverySource``."""
        await self._home(delivery).confirm_ack(delivery, timeout=timeout)

    async def nak(self, delivery: Delivery, *, delay: float) -> None:
        """See ``DeliverySource``."""
        await self._home(delivery).nak(delivery, delay=delay)

    async def term(self, delivery: Delivery, *, reason: str) -> None:
        """See ``DeliverySource``."""
        await self._home(delivery).term(delivery, reason=reason)

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        """See ``DeliverySource``."""
        own, copies = _apart(deliveries)
        if own:
            await self._first.extend(own)
        if copies:
            await self._later.extend(copies)

    def _home(self, delivery: Delivery) -> DeliverySource:
        return self._later if delivery.again else self._first

    # -- the end

    def watch(self, observe: Observe) -> None:
        """See ``DeliverySource``."""
        self._first.watch(observe)
        self._later.watch(observe)

    async def close(self) -> None:
        """See ``DeliverySource``. Once begun it goes on by itself, also when the one who closes is cancelled."""
        if self._closing is None:
            self._closing = self._loop.create_task(self._part(), name=f"close {self.consumer}")
        await asyncio.shield(self._closing)

    async def _part(self) -> None:
        self._bringer.cancel()
        await asyncio.wait([self._bringer])
        await asyncio.gather(self._first.close(), self._later.close())
        while self._back:
            with suppress(BrokerError):
                await self._later.nak(self._back.popleft(), delay=0.0)


def _apart(deliveries: Sequence[Delivery]) -> tuple[Sequence[Delivery], Sequence[Delivery]]:
    """The group's own, and what came back."""
    copies = [each for each in deliveries if each.again]
    return ([each for each in deliveries if not each.again], copies) if copies else (deliveries, copies)
