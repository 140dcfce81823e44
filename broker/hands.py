"""Hands: who handles what was fetched, how much of it at once, and what becomes of it afterwards."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from broker.contracts.errors import BrokerError
from broker.handling import report, text_of
from broker.messages import StreamMessage
from broker.settling import refuse_exhausted, where

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from broker.contracts.codec import Codec
    from broker.contracts.envelopes import Delivery
    from broker.contracts.options import ConsumeOptions
    from broker.settling import ConsumeSettler
    from broker.supply import Supply

log = logging.getLogger("broker.consuming")


class Hands(ABC):
    """One consumption's way to run its handler."""

    def __init__(self, handler: Callable[..., Any], *, supply: Supply, options: ConsumeOptions, codec: Codec) -> None:
        self._handler = handler
        self._supply = supply
        self._options = options
        self._codec = codec
        self._backend = supply.backend

    @property
    def held(self) -> Collection[StreamMessage]:
        """Messages in hand beyond the moment, whose ack wait somebody has to extend."""
        return ()

    @abstractmethod
    def room(self) -> int:
        """How many more messages to ask for; 0 while there is no room."""

    @abstractmethod
    async def until_room(self) -> None:
        """Wait until there may be room again."""

    @abstractmethod
    async def take(self, batch: Sequence[Delivery]) -> None:
        """Handle them, or begin to."""

    @abstractmethod
    async def give_back_waiting(self) -> None:
        """Hand back what was fetched and not begun."""

    @abstractmethod
    async def finish(self, timeout: float, this: set[asyncio.Task[Any] | None]) -> None:
        """Let what was begun come to an end, but ``this``; cancel what has not after ``timeout`` seconds."""

    def _refuse_exhausted(self, message: StreamMessage) -> None:
        """Before the handler runs: one that kills its process would otherwise be handed out for ever.

        With an inbox it is not for us to say that no attempt came to an outcome.
        """
        if not self._options.once:
            refuse_exhausted(message.delivery, self._options)

    async def _settle_failed(
        self, settler: ConsumeSettler, message: StreamMessage, error: BaseException, *, more: int = 0
    ) -> None:
        """Told once; ``more`` is how many others of its batch the same error is about."""
        what = where(message.delivery) + (f" and {more} more of its batch" if more else "")
        if settler.decision(error) == "drop":
            self._backend.stats.handler_errors += 1
            log.info("dropping %s: %s: %s", what, type(error).__name__, text_of(error))
        else:
            report(self._backend.stats, what, error)
        await self._settle(settler, message, error)

    async def _settle(self, settler: ConsumeSettler, message: StreamMessage, error: BaseException) -> None:
        try:
            await settler.failed(message, error)
        except BrokerError as exc:
            # Unsettled means redelivered after the ack wait: late, not lost.
            log.warning("could not settle %s: %s", where(message.delivery), exc)


class HoldingHands(Hands):
    """Hands whose messages outlive ``take``: each is held until its handler has come to an end."""

    def __init__(self, handler: Callable[..., Any], *, supply: Supply, options: ConsumeOptions, codec: Codec) -> None:
        super().__init__(handler, supply=supply, options=options, codec=codec)
        self._held: dict[StreamMessage, None] = {}  # in the order taken
        self._newest: dict[tuple[int, int], tuple[StreamMessage, float]] = {}
        self._clock = asyncio.get_running_loop().time
        self._freed = asyncio.Event()

    @property
    def held(self) -> Collection[StreamMessage]:
        """See ``Hands``."""
        return self._held.keys()

    async def until_room(self) -> None:
        """See ``Hands``."""
        self._freed.clear()
        await self._freed.wait()

    def _hold(self, delivery: Delivery) -> StreamMessage | None:
        """A message to handle; ``None`` when its handler still runs.

        That one came again because we were stalled past the ack wait: one handler is enough, and settles the newest.
        One that its handler gave back by itself and works on is another attempt, beside it as at any other worker.
        """
        place = delivery.sequence, delivery.timestamp_ns
        held, taken_at = self._newest.get(place, (None, 0.0))
        if held is not None and not held.parted:
            self._supply.came_again(taken_at)
            held.renew(delivery, self._supply.settler)
            return None
        message = StreamMessage(delivery, self._codec, self._backend, settler=self._supply.settler)
        self._newest[place] = message, self._clock()
        self._held[message] = None
        self._backend.stats.redelivered += message.attempt > 1
        return message

    def _let_go(self, message: StreamMessage) -> None:
        self._held.pop(message, None)
        place = message.sequence, message.delivery.timestamp_ns
        if self._newest.get(place, (None, 0.0))[0] is message:
            del self._newest[place]
        self._freed.set()
