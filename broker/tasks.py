"""``async def`` handlers: a task each, as many as there are slots."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from broker.contracts.errors import BrokerError
from broker.handling import EXITS, run
from broker.hands import HoldingHands
from broker.recess import PatientHandler
from broker.slots import Slots

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from broker.contracts.codec import Codec
    from broker.contracts.envelopes import Delivery
    from broker.contracts.options import ConsumeOptions
    from broker.messages import StreamMessage
    from broker.settling import ConsumeSettler
    from broker.supply import Supply


class TaskHands(HoldingHands):
    """A slot for each message that is being handled, and few fetched ahead."""

    def __init__(self, handler: Callable[..., Any], *, supply: Supply, options: ConsumeOptions, codec: Codec) -> None:
        if supply.recess is not None:
            handler = PatientHandler(handler, supply.recess, supply)
        super().__init__(handler, supply=supply, options=options, codec=codec)
        self._loop = asyncio.get_running_loop()
        self._slots = Slots(options.concurrency, supply.consumer.max_ack_pending, self._handle)

    def room(self) -> int:
        """See ``Hands``."""
        return self._slots.room(len(self._held))

    async def take(self, batch: Sequence[Delivery]) -> None:
        """Start a handler for each, or let it wait for a slot."""
        for delivery in batch:
            if (message := self._hold(delivery)) is not None:
                self._slots.start(message, self._supply.settler)

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
                with suppress(BrokerError):  # unsettled means redelivered; the handler has not failed
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
