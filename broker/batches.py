"""Batch handlers: messages are gathered until there are enough or time is up, and handled together."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from broker.applying import SomeFailed
from broker.contracts.errors import BrokerError
from broker.handling import STOPS, HandlerTask, is_async, run
from broker.hands import HoldingHands
from broker.settling import AttemptsExhausted, ConsumeSettler
from broker.slots import finish

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from broker.contracts.codec import Codec
    from broker.contracts.envelopes import Delivery
    from broker.contracts.options import ConsumeOptions
    from broker.messages import StreamMessage
    from broker.supply import Supply


class _InHand(NamedTuple):
    message: StreamMessage
    settler: ConsumeSettler


Batch = list[_InHand]


class BatchHands(HoldingHands):
    """One batch is gathered at a time, and only while there is a slot to handle it in.

    A plain function has one slot, an ``async def`` ``concurrency`` of them.
    """

    def __init__(self, handler: Callable[..., Any], *, supply: Supply, options: ConsumeOptions, codec: Codec) -> None:
        super().__init__(handler, supply=supply, options=options, codec=codec)
        self._size = options.batch_size or 1
        self._most = options.concurrency if is_async(handler) else 1
        self._loop = asyncio.get_running_loop()
        self._gathered: Batch = []
        self._due: asyncio.TimerHandle | None = None
        self._overdue = False
        self._tasks: dict[asyncio.Task[None], None] = {}

    def room(self) -> int:
        """What is missing in the batch that is gathered."""
        return self._size - len(self._gathered) if len(self._tasks) < self._most else 0

    async def take(self, batch: Sequence[Delivery]) -> None:
        """Add them to the batch, and begin it when it is full."""
        for delivery in batch:
            if (message := self._hold(delivery)) is not None:
                self._gathered.append(_InHand(message, self._supply.settler))
        if self._gathered and self._due is None:
            self._due = self._loop.call_later(self._options.batch_timeout, self._time_is_up)
        self._begin()

    async def give_back_waiting(self) -> None:
        """Those gathered and not begun."""
        gathered, self._gathered = self._gathered, []
        self._reset()
        await self._give_back(gathered)

    async def finish(self, timeout: float, this: set[asyncio.Task[Any] | None]) -> None:
        """See ``Hands``."""
        await finish(self._tasks, timeout, this)

    def _time_is_up(self) -> None:
        self._overdue = True
        self._begin()

    def _begin(self) -> None:
        """Handle what is gathered, if it is complete and there is a slot."""
        ready = len(self._gathered) >= self._size or (self._overdue and self._gathered)
        if not ready or len(self._tasks) >= self._most:
            return
        batch, self._gathered = self._gathered, []
        self._reset()
        task = HandlerTask(self._handle(batch), loop=self._loop, name="handle batch")
        self._tasks[task] = None
        task.add_done_callback(lambda ended: self._done(ended, batch))

    def _reset(self) -> None:
        if self._due is not None:
            self._due.cancel()
        self._due, self._overdue = None, False

    def _done(self, task: asyncio.Task[None], batch: Batch) -> None:
        self._tasks.pop(task, None)
        if task.cancelled():  # perhaps before its first step: its handler could not give anything back
            self._gathered.extend(each for each in batch if not each.message.settled)
        else:
            self._begin()
        self._freed.set()

    async def _handle(self, batch: Batch) -> None:
        try:
            await self._until_settled(await self._fit(batch))
        except asyncio.CancelledError:
            await self._give_back(batch)
            raise
        finally:
            for each in batch:
                self._let_go(each.message)

    async def _fit(self, batch: Batch) -> Batch:
        """Those that have an attempt left; the others come to their end."""
        fit: Batch = []
        for each in batch:
            try:
                self._refuse_exhausted(each.message)
            except AttemptsExhausted as exc:
                await self._settle_failed(each.settler, each.message, exc)
            else:
                fit.append(each)
        return fit

    async def _until_settled(self, batch: Batch) -> None:
        recess = self._supply.recess
        while batch:
            if recess is not None:
                await recess.over()
                if self._supply.stopping:
                    await self._supply.source.close()
                    await self._give_back(batch)
                    return
            try:
                await self._run([each.message for each in batch])
            except STOPS:
                raise
            except SomeFailed as exc:
                await self._settle_apart(batch, exc.errors)
                return
            except BaseException as exc:  # noqa: BLE001 - it becomes the outcome of what is not settled
                left = [each for each in batch if not each.message.settled]
                if not (left and recess is not None and recess.called_for(left[0].message, exc)):
                    await self._fail(left or batch[:1], exc)
                    return
                batch = left
                self._backend.stats.handler_errors += 1
            else:
                await self._ack(batch)
                return

    async def _run(self, messages: Any) -> None:
        """Call the handler; what is traced as its cause is the first message."""
        wrap = self._backend.around
        if wrap is None:
            await run(self._handler, messages, None)
        else:
            with wrap(messages[0].delivery):
                await run(self._handler, messages, None)

    async def _ack(self, batch: Batch) -> None:
        done: dict[ConsumeSettler, list[Delivery]] = {}
        for message, settler in batch:
            if message.mark_settled("ack"):
                done.setdefault(settler, []).append(message.delivery)
        for settler, deliveries in done.items():
            self._backend.stats.acked += len(deliveries)
            with suppress(BrokerError):
                await settler.source.ack(deliveries)

    async def _fail(self, batch: Batch, error: BaseException) -> None:
        """Each is settled by the error; it is reported once."""
        for index, (message, settler) in enumerate(batch):
            if index:
                await self._settle(settler, message, error)
            else:
                await self._settle_failed(settler, message, error, more=len(batch) - 1)

    async def _settle_apart(self, batch: Batch, errors: Mapping[StreamMessage, Exception]) -> None:
        """Those that failed by their own errors, the others as done."""
        await self._ack([each for each in batch if each.message not in errors])
        for message, settler in batch:
            if message in errors:
                await self._settle_failed(settler, message, errors[message])

    async def _give_back(self, batch: Batch) -> None:
        for message, settler in batch:
            with suppress(BrokerError):
                await settler.give_back(message)
            self._let_go(message)
