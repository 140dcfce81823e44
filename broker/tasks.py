"""``async def`` handlers: a task each, as many as there are slots."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from broker.contracts.errors import BrokerError
from broker.handling import EXITS, run
from broker.hands import Hands
from broker.messages import StreamMessage
from broker.recess import PatientHandler
from broker.slots import Slots

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from broker.contracts.codec import Codec
    from broker.contracts.envelopes import Delivery
    from broker.contracts.options import ConsumeOptions
    from broker.settling import ConsumeSettler
    from broker.supply import Supply


class TaskHands(Hands):
    """A slot for each message that is being handled, and few fetched ahead."""

    def __init__(self, handler: Callable[..., Any], *, supply: Supply, options: ConsumeOptions, codec: Codec) -> None:
        if supply.recess is not None:
            handler = PatientHandler(handler, supply.recess, supply)
        super().__init__(handler, supply=supply, options=options, codec=codec)
        self._loop = asyncio.get_running_loop()
        self._held: dict[tuple[int, int], StreamMessage] = {}
        self._slots = Slots(options.concurrency, supply.consumer.max_ack_pending, self._handle)
        self._freed = asyncio.Event()

    @property
    def held(self) -> Collection[StreamMessage]:
        """See ``Hands``."""
        return self._held.values()

    def room(self) -> int:
        """See ``Hands``."""
        return self._slots.room(len(self._held))

    async def until_room(self) -> None:
        """See ``Hands``."""
        self._freed.clear()
        await self._freed.wait()

    async def take(self, batch: Sequence[Delivery]) -> None:
        """Start a handler for each, or let it wait for a slot."""
        settler = self._supply.settler
        for delivery in batch:
            held = self._held.get((delivery.sequence, delivery.timestamp_ns))
            if held is not None:
                # Again while its handler still runs (we were stalled past the ack wait): one handler is enough.
                held.renew(delivery, settler)
                continue
            message = StreamMessage(delivery, self._codec, self._backend, settler=settler)
            self._held[delivery.sequence, delivery.timestamp_ns] = message
            self._backend.stats.redelivered += message.attempt > 1
            self._slots.start(message, settler)

    async def give_back_waiting(self) -> None:
        """Those that were fetched ahead and have no slot yet."""
        for message, settler in self._slots.take_waiting():
            with suppress(BrokerError):
                await settler.give_back(message)
            self._let_go(message)

    async def finish(self, timeout: float, this: set[asyncio.Task[Any] | None]) -> None:
        """See ``Hands``."""
        await self._slots.finish(timeout, this)

    async def _handle(self, message: StreamMessage, settler: ConsumeSettler) -> None:
        began = self._loop.time()
        try:
            self._refuse_exhausted(message)
            await run(self._handler, message, self._backend.around)
            if message.mark_settled("ack"):
                self._backend.stats.acked += 1
                await settler.source.ack((message.delivery,))
        except asyncio.CancelledError:
            with suppress(BrokerError):
                await settler.give_back(message)
            raise
        except EXITS:
            raise
        except BaseException as exc:  # noqa: BLE001 - it becomes the message's outcome
            await self._settle_failed(settler, message, exc)
        finally:
            self._slots.took(self._loop.time() - began)
            self._let_go(message)

    def _let_go(self, message: StreamMessage) -> None:
        self._held.pop((message.sequence, message.delivery.timestamp_ns), None)
        self._freed.set()
