"""The consume loop: free slots ask for messages, handlers run, outcomes settle.

A consumption never holds more than its free slots need. It outlives reconnects, restarts and a deleted consumer; it
ends when it is drained, or with the error that made going on impossible.
"""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from broker.contracts.errors import (
    ApiError,
    BrokerError,
    ConnectionLost,
    ConsumerGone,
    ConsumerNotFound,
    RequestTimeout,
)
from broker.handling import EXITS, HandlerTask, by_themselves, call, forgiven, is_async, refuse_coroutine, report, run
from broker.messages import StreamMessage
from broker.settling import AttemptsExhausted, ConsumeSettler, where
from broker.slots import LAST_WORDS, Slots

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from broker.contracts.backend import DeliverySource, StreamBackend
    from broker.contracts.codec import Codec
    from broker.contracts.envelopes import Delivery
    from broker.contracts.options import ConsumeOptions, ConsumerOptions
    from broker.dead_letters import DeadLetterWriter

log = logging.getLogger("broker.consuming")

T = TypeVar("T")

_FETCH: Final = 30.0  # seconds: only how often an idle loop turns
_REOPEN_PAUSE: Final = (0.1, 2.0)
_INLINE_BUDGET: Final = 0.010
"""Seconds of plain-function handlers in a row before the event loop gets its turn."""
_LAST_FLUSH: Final = 2.0


class Consumption:
    """A running ``consume``.

    Attributes:
        stream: where the messages come from.
        consumer: the name of the stored position.
    """

    def __init__(
        self,
        handler: Callable[[StreamMessage], Any],
        *,
        consumer: ConsumerOptions,
        options: ConsumeOptions,
        backend: StreamBackend,
        codec: Codec,
        letters: DeadLetterWriter | None,
        forget: Callable[[Consumption], None],
    ) -> None:
        self._handler = handler
        self._inline = not is_async(handler)
        self._consumer = consumer
        self._options = options
        self._backend = backend
        self._codec = codec
        self._letters = letters
        self._forget = forget
        self._loop = asyncio.get_running_loop()
        self._held: dict[tuple[int, int], StreamMessage] = {}
        self._slots = Slots(options.concurrency, consumer.max_ack_pending, self._handle)
        self._window = 1
        self._stopping = False
        self._interruptible = False
        self._interrupted = False
        self._running = asyncio.Event()
        self._running.set()
        self._slot_freed = asyncio.Event()
        self._runner: asyncio.Task[None] | None = None
        self._extender: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self.stream = ""
        self.consumer = ""

    @property
    def in_hand(self) -> int:
        """Messages handed to handlers and not settled yet."""
        return len(self._held)

    async def start(self) -> Self:
        """Open the consumer and begin."""
        await self._open(self._consumer)
        if self._letters is not None:
            try:
                await self._letters.prepare(self.stream)
            except BaseException:
                await self._source.close()
                raise
        self._runner = HandlerTask(self._run(), loop=self._loop, name=f"consume {self.consumer}")
        self._runner.add_done_callback(_retrieve)
        if self._options.auto_extend:
            self._extender = self._loop.create_task(self._extend_forever(), name=f"extend {self.consumer}")
        return self

    async def wait(self) -> None:
        """Until it is drained.

        Raises:
            ConsumerGone: it was deleted and may only be bound to.
            StreamNotFound, NoStream, PermissionDenied, ConfigDrift: going on became impossible.
            BrokerClosed, Unauthorized: the connection is gone for good.
        """
        if self._runner is not None:
            await asyncio.wait([self._runner])
            self._runner.result()

    async def pause(self) -> None:
        """Stop asking for messages and give back what was not started; handlers that run go on."""
        self._running.clear()
        self._interrupt()

    async def resume(self) -> None:
        """Go on after ``pause``."""
        self._running.set()

    async def drain(self, timeout: float = 25.0, *, caller: asyncio.Task[Any] | None = None) -> None:
        """Stop asking, give back what was not started, let handlers finish and settle; idempotent.

        Handlers still running after ``timeout`` seconds are cancelled and their messages given back; ``caller``, a
        handler that waits for this, is left alone. Once begun it goes on by itself, also when cancelled.
        """
        self._stopping = True
        self._interrupt()
        this = {caller, asyncio.current_task()}
        self._ending = self._loop.create_task(self._end(timeout, this), name=f"drain {self.consumer}")
        await asyncio.shield(self._ending)

    async def _end(self, timeout: float, this: set[asyncio.Task[Any] | None]) -> None:
        await self._finish_runner(timeout, this)
        await self._give_back_waiting()
        await self._slots.finish(timeout, this)
        await self._give_back_waiting()
        self._forget(self)
        if self._extender is not None:
            self._extender.cancel()
        with suppress(BrokerError):
            await self._backend.flush(timeout=_LAST_FLUSH)

    # -- the loop

    async def _run(self) -> None:
        try:
            while not self._stopping:
                if not self._running.is_set():
                    await self._sit_out_pause()
                elif room := self._window if self._inline else self._slots.room(len(self._held)):
                    await self._turn(room)
                else:
                    self._slot_freed.clear()
                    await self._interruptibly(self._slot_freed.wait())
        except BrokerError:
            if not self._stopping:
                log.exception("consuming %s from %s ended", self.consumer, self.stream)
                raise
        finally:
            await self._source.close()

    async def _turn(self, room: int) -> None:
        try:
            batch = await self._interruptibly(self._source.fetch(room, timeout=_FETCH))
        except ConsumerNotFound as exc:
            await self._reopen(exc)
            return
        except (ConnectionLost, RequestTimeout) as exc:
            log.warning("fetching for %s: %s", self.consumer, exc)
            await self._interruptibly(asyncio.sleep(_REOPEN_PAUSE[0]))
            return
        if batch:
            self._backend.stats.delivered += len(batch)
            if self._inline:
                await self._handle_inline(batch)
            else:
                self._start_handlers(batch)

    async def _interruptibly(self, waiting: Awaitable[T]) -> T | None:
        """Wait for something that loses nothing when cancelled; ``None`` when drain or pause interrupted it."""
        self._interruptible = True
        try:
            return await waiting
        except asyncio.CancelledError:
            if not self._interrupted:
                raise
            self._interrupted = False
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()
            return None
        finally:
            self._interruptible = False

    def _interrupt(self) -> None:
        if self._interruptible and self._runner is not None:
            self._interruptible, self._interrupted = False, True
            self._runner.cancel()

    async def _sit_out_pause(self) -> None:
        await self._source.close()
        await self._give_back_waiting()
        await self._interruptibly(self._running.wait())
        if not self._stopping and self._running.is_set():
            await self._reopen(None)

    async def _open(self, consumer: ConsumerOptions) -> None:
        source = await self._backend.open_consumer(consumer)
        self._source: DeliverySource = source
        self._settler = ConsumeSettler(source, self._backend.stats, self._options, self._letters)
        self.stream, self.consumer = source.stream, source.consumer

    async def _reopen(self, error: ConsumerNotFound | None) -> None:
        """Open again, made anew where the group had got to; retried while the server cannot do it right now."""
        if error is not None and self._consumer.ensure == "bind":
            raise ConsumerGone(
                f"consumer {self.consumer!r} of {self.stream!r} was deleted; ensure='bind' does not make it again",
                stream=self.stream,
            ) from error
        resume = self._source.resume_sequence
        await self._source.close()
        again = replace(self._consumer, stream=self.stream, start=resume or self._consumer.start)
        if error is not None:
            log.warning(
                "consumer %s of %s was deleted; made again from sequence %s", self.consumer, self.stream, resume
            )
        pause = _REOPEN_PAUSE[0]
        while not self._stopping:
            try:
                await self._open(again)
            except (ConnectionLost, RequestTimeout) as exc:
                log.warning("opening consumer %s again: %s", self.consumer, exc)
            except ApiError as exc:
                if not exc.transient:
                    raise
            else:
                return
            await self._interruptibly(asyncio.sleep(pause * random.uniform(0.5, 1.0)))
            pause = min(pause * 2, _REOPEN_PAUSE[1])

    # -- plain functions: inline, one after the other

    async def _handle_inline(self, batch: Sequence[Delivery]) -> None:
        """Run them in a row; the window grows while they are fast and shrinks when they are not."""
        began = turn = extended = self._loop.time()
        done: list[Delivery] = []
        for index, delivery in enumerate(batch):
            message = StreamMessage(delivery, self._codec, self._backend, settler=self._settler)
            error = self._call_inline(message, delivery.attempt)
            if by_themselves:
                own = await forgiven()
                error = error or own
            if error is not None:
                await self._ack(done)
                await self._settle_failed(self._settler, message, error)
            elif message.mark_settled("ack"):
                done.append(delivery)
            now = self._loop.time()
            if now - turn > _INLINE_BUDGET:
                await self._ack(done)
                rest = batch[index + 1 :]
                if self._stopping:
                    await self._give_back(rest)
                    return
                if rest and self._options.auto_extend and now - extended > self._consumer.ack_wait / 3:
                    await self._source.extend(rest)
                    extended = now
                await asyncio.sleep(0)
                turn = self._loop.time()
        await self._ack(done)
        self._fit_window(self._loop.time() - began, len(batch))

    def _call_inline(self, message: StreamMessage, attempt: int) -> BaseException | None:
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

    async def _ack(self, done: list[Delivery]) -> None:
        if done:
            self._backend.stats.acked += len(done)
            with suppress(BrokerError):
                await self._source.ack(done)
            done.clear()

    async def _give_back_waiting(self) -> None:
        """Those that were fetched ahead and have no slot yet."""
        for message, settler in self._slots.take_waiting():
            with suppress(BrokerError):
                await settler.give_back(message)
            self._let_go(message)

    async def _give_back(self, rest: Sequence[Delivery]) -> None:
        for delivery in rest:
            with suppress(BrokerError):
                await self._source.nak(delivery, delay=0.0)

    def _fit_window(self, took: float, handled: int) -> None:
        if took > _INLINE_BUDGET:
            self._window = max(1, int(handled * _INLINE_BUDGET / took))
        elif handled >= self._window:
            self._window = min(self._window * 2, self._consumer.max_ack_pending)

    # -- async handlers: a task each, as many as there are slots

    def _start_handlers(self, batch: Sequence[Delivery]) -> None:
        for delivery in batch:
            held = self._held.get((delivery.sequence, delivery.timestamp_ns))
            if held is not None:
                # Again while its handler still runs (we were stalled past the ack wait): one handler is enough.
                held.renew(delivery, self._settler)
                continue
            message = StreamMessage(delivery, self._codec, self._backend, settler=self._settler)
            self._held[delivery.sequence, delivery.timestamp_ns] = message
            self._backend.stats.redelivered += message.attempt > 1
            self._slots.start(message, self._settler)

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
        self._slot_freed.set()

    def _refuse_exhausted(self, message: StreamMessage) -> None:
        """Before the handler runs: one that kills its process would otherwise be handed out for ever."""
        if message.attempt > self._options.max_deliver:
            raise AttemptsExhausted("every attempt was handed out and none came to an outcome")

    async def _settle_failed(self, settler: ConsumeSettler, message: StreamMessage, error: BaseException) -> None:
        report(self._backend.stats, where(message.delivery), error)
        try:
            await settler.failed(message, error)
        except BrokerError as exc:
            # Unsettled means redelivered after the ack wait: late, not lost.
            log.warning("could not settle %s: %s", where(message.delivery), exc)

    async def _finish_runner(self, timeout: float, this: set[asyncio.Task[Any] | None]) -> None:
        runner = self._runner
        if runner is None or runner in this or runner.done():
            return
        await asyncio.wait([runner], timeout=timeout or LAST_WORDS)
        if not runner.done():  # burying or opening again on a server that does not answer
            runner.cancel()
            await asyncio.wait([runner], timeout=LAST_WORDS)

    async def _extend_forever(self) -> None:
        """Keep what is in hand from being handed out again, however long its handler takes."""
        while True:
            await asyncio.sleep(self._consumer.ack_wait / 3)
            held = [message.delivery for message in self._held.values() if not message.settled]
            if held:
                self._backend.stats.extended += len(held)
                with suppress(BrokerError):
                    await self._source.extend(held)


def _retrieve(runner: asyncio.Task[None]) -> None:
    """Its error is logged and raised by ``wait``; nobody has to call that."""
    error = None if runner.cancelled() else runner.exception()
    if error is not None and not isinstance(error, BrokerError):  # those were logged where they happened
        log.error("%s ended", runner.get_name(), exc_info=error)
