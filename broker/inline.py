"""Plain functions: run inline, one after the other, as many in a row as are done in a moment."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from broker.contracts.errors import BrokerError
from broker.handling import EXITS, by_themselves, call, forgiven, refuse_coroutine
from broker.hands import Hands
from broker.messages import StreamMessage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from broker.contracts.codec import Codec
    from broker.contracts.envelopes import Delivery
    from broker.contracts.options import ConsumeOptions
    from broker.recess import Recess
    from broker.supply import Supply

_BUDGET: Final = 0.010
"""Seconds of handlers in a row before the event loop gets its turn."""


class InlineHands(Hands):
    """No task per message: a window of messages at a time.

    Attributes:
        window: how many to ask for; grows while they are fast and shrinks when they are not.
    """

    def __init__(self, handler: Callable[..., Any], *, supply: Supply, options: ConsumeOptions, codec: Codec) -> None:
        super().__init__(handler, supply=supply, options=options, codec=codec)
        self.window = 1
        self._loop = asyncio.get_running_loop()

    def room(self) -> int:
        """See ``Hands``."""
        return self.window

    async def until_room(self) -> None:
        """There always is."""

    async def take(self, batch: Sequence[Delivery]) -> None:
        """Run them in a row."""
        supply, loop = self._supply, self._loop
        began = turn = extended = loop.time()
        done: list[Delivery] = []
        for index, delivery in enumerate(batch):
            message = StreamMessage(delivery, self._codec, self._backend, settler=supply.settler)
            error = self._call(message, delivery.attempt)
            if error is not None or by_themselves:
                await self._ack(done)
                error = await self._trouble(message, error, batch[index + 1 :])
            if error is None and message.mark_settled("ack"):
                done.append(delivery)
            now = loop.time()
            if now - turn > _BUDGET:
                await self._ack(done)
                rest = batch[index + 1 :]
                if supply.stopping:
                    await supply.give_back(rest)
                    return
                if rest and self._options.auto_extend and now - extended > supply.consumer.ack_wait / 3:
                    await supply.source.extend(rest)
                    extended = now
                await asyncio.sleep(0)
                turn = loop.time()
        await self._ack(done)
        self._fit_window(loop.time() - began, len(batch))

    async def give_back_waiting(self) -> None:
        """Nothing waits: ``take`` begins with all of it."""

    async def finish(self, timeout: float, this: set[asyncio.Task[Any] | None]) -> None:
        """Nothing is left running by ``take``."""

    def _call(self, message: StreamMessage, attempt: int) -> BaseException | None:
        try:
            if attempt > 1:
                self._backend.stats.redelivered += 1
                self._refuse_exhausted(message)
            if (result := call(self._handler, message, self._backend.around)) is not None:
                refuse_coroutine(result)
        except EXITS:
            raise
        except BaseException as exc:  # noqa: BLE001 - it becomes the message's outcome
            return exc
        return None

    async def _trouble(
        self, message: StreamMessage, error: BaseException | None, rest: Sequence[Delivery]
    ) -> BaseException | None:
        """Settle a failure, unless trying again after a recess ends well: then ``None``."""
        supply, own = self._supply, await forgiven()
        error = error or own
        if error is not None and supply.recess is not None:
            error = await self._sit_out(supply.recess, message, error, rest)
        if error is not None:
            await self._settle_failed(supply.settler, message, error)
        return error

    async def _sit_out(
        self, recess: Recess, message: StreamMessage, error: BaseException | None, rest: Sequence[Delivery]
    ) -> BaseException | None:
        """Try again after each recess the error calls for; ``None`` when that went well or we are leaving."""
        supply = self._supply
        while error is not None and recess.called_for(message, error):
            self._backend.stats.handler_errors += 1
            while not await recess.over(supply.consumer.ack_wait / 3):
                with suppress(BrokerError):
                    await supply.source.extend((message.delivery, *rest))
            if supply.stopping:
                await supply.leave(message)
                return None
            error = self._call(message, 1)  # the same attempt once more: counted and allowed before
            if by_themselves:
                own = await forgiven()
                error = error or own
        return error

    async def _ack(self, done: list[Delivery]) -> None:
        if done:
            self._backend.stats.acked += len(done)
            with suppress(BrokerError):
                await self._supply.source.ack(done)
            done.clear()

    def _fit_window(self, took: float, handled: int) -> None:
        if took > _BUDGET:
            self.window = max(1, int(handled * _BUDGET / took))
        elif handled * 2 >= self.window:  # the source asks for half a window at a time
            self.window = min(self.window * 2, self._supply.consumer.max_ack_pending)
