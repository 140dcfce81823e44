"""The consume loop: free hands ask for messages, handlers run, outcomes settle.

A consumption never holds more than its free hands need. It outlives reconnects, restarts and a deleted consumer; it
ends when it is drained, or with the error that made going on impossible.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Self

from broker.announcing import Announcer, Events
from broker.batches import BatchHands
from broker.contracts.errors import (
    BrokerError,
    ConnectionLost,
    ConsumerNotFound,
    NoStream,
    RequestTimeout,
    StreamNotFound,
)
from broker.contracts.events import ConsumerEventKind
from broker.handling import HandlerTask, is_async
from broker.inline import InlineHands
from broker.pacing import Pace
from broker.slots import LAST_WORDS
from broker.supply import REOPEN_PAUSE, Supply
from broker.tasks import TaskHands

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.contracts.backend import StreamBackend
    from broker.contracts.codec import Codec
    from broker.contracts.options import ConsumeOptions, ConsumerOptions
    from broker.dead_letters import DeadLetterWriter
    from broker.hands import Hands
    from broker.supply import OpenConsumer, SettlerFor

log = logging.getLogger("broker.consuming")

_FETCH: Final = 30.0  # seconds: only how often an idle loop turns
_LAST_FLUSH: Final = (0.1, 2.0)
"""Seconds that ending waits for what was sent to reach the server: at least, also when time is up, and at most."""
_STOOD_STILL: Final = (
    "the event loop stood still for %.1f s, longer than ack_wait=%g of %s: what was in hand may be handed out again, "
    "and that counts as an attempt; a handler that blocks belongs in asyncio.to_thread"
)


class Consumption:
    """A running ``consume``.

    ``open_consumer`` and ``settler_for`` stand in for the backend's consumers and the usual way to settle.

    Attributes:
        stream: where the messages come from.
        consumer: the name of the stored position.
    """

    def __init__(
        self,
        handler: Callable[..., Any],
        *,
        consumer: ConsumerOptions,
        options: ConsumeOptions,
        backend: StreamBackend,
        codec: Codec,
        letters: DeadLetterWriter | None,
        forget: Callable[[Consumption], None],
        open_consumer: OpenConsumer | None = None,
        settler_for: SettlerFor | None = None,
        announcer: Announcer | None = None,
    ) -> None:
        self._options = options
        self._backend = backend
        self._forget = forget
        self._loop = asyncio.get_running_loop()
        self._announcer = announcer or Announcer(backend)
        self._supply = Supply(consumer, options, backend, letters, self._announcer, open_consumer, settler_for)
        self._hands: Hands = _kind_of_hands(handler, options)(
            handler, supply=self._supply, options=options, codec=codec
        )
        limited = options.rate is not None or options.byte_rate is not None
        self._pace = Pace(options.rate, options.byte_rate, self._loop.time) if limited else None
        self._running = asyncio.Event()
        self._running.set()
        self._runner: asyncio.Task[None] | None = None
        self._extender: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._askers: set[asyncio.Task[Any] | None] = set()
        self.stream = ""
        self.consumer = ""

    @property
    def in_hand(self) -> int:
        """Messages handed to handlers and not settled yet."""
        return len(self._hands.held)

    @property
    def stopping(self) -> bool:
        """Whether it is coming to its end."""
        return self._supply.stopping

    @property
    def parked_keys(self) -> int:
        """With ``ordered=True``: ordering keys of which something waits, for a backoff or for a decision; else 0."""
        return 0

    async def start(self) -> Self:
        """Open the consumer and begin."""
        supply = self._supply
        await supply.open()
        self.stream, self.consumer = supply.source.stream, supply.source.consumer
        self._runner = HandlerTask(self._run(), loop=self._loop, name=f"consume {self.consumer}")
        self._runner.add_done_callback(_retrieve)
        if self._options.auto_extend:
            self._extender = self._loop.create_task(self._extend_forever(), name=f"extend {self.consumer}")
        return self

    async def wait(self) -> None:
        """Until it is drained, its handlers included.

        Raises:
            ConsumerGone: it was deleted and may only be bound to.
            StreamNotFound, NoStream, PermissionDenied, ConfigDrift: going on became impossible.
            BrokerClosed, Unauthorized: the connection is gone for good.
        """
        self._askers.add(asyncio.current_task())
        if self._runner is not None:
            await asyncio.wait([self._runner])
            if not self._runner.cancelled():
                self._runner.result()
        if self._ending is not None:
            await asyncio.wait([self._ending])

    async def pause(self) -> None:
        """Stop asking for messages and give back what was not started; handlers that run go on.

        Its place is kept until ``resume``, also without a name.
        """
        if self._running.is_set():
            self._running.clear()
            self._announcer.tell(ConsumerEventKind.PAUSED)
        self._supply.waits.interrupt()

    async def resume(self) -> None:
        """Go on after ``pause``."""
        if not self._running.is_set():
            self._running.set()
            self._announcer.tell(ConsumerEventKind.RESUMED)

    def events(self) -> Events:
        """What happens from now on: lost heartbeats, a deleted consumer, another leader, exceeded limits ...

        An async iterator of ``ConsumerEvent``, ending with the consumption. A listener that does not read keeps the
        newest 256; what it missed is counted (``stats.dropped_events``).
        """
        return self._announcer.listen()

    async def drain(self, timeout: float = 25.0, *, caller: asyncio.Task[Any] | None = None) -> None:
        """Stop asking, give back what was not started, let handlers finish and settle; idempotent.

        Handlers still running after ``timeout`` seconds are cancelled and their messages given back; ``caller``, a
        handler that waits for this, is left alone, as every other one that does. Once begun it goes on by itself, also
        when cancelled.
        """
        self._supply.stop()
        self._askers |= {caller, asyncio.current_task()}
        self._ending = self._loop.create_task(self._end(timeout, self._askers), name=f"drain {self.consumer}")
        await asyncio.shield(self._ending)

    async def _end(self, timeout: float, this: set[asyncio.Task[Any] | None]) -> None:
        deadline = self._loop.time() + timeout
        await self._finish_runner(timeout, this)
        await self._hands.give_back_waiting()
        await self._hands.finish(max(0.0, deadline - self._loop.time()), this)
        await self._hands.give_back_waiting()
        self._forget(self)
        if self._extender is not None:
            self._extender.cancel()
        with suppress(BrokerError):
            shortest, longest = _LAST_FLUSH
            left = max(shortest, deadline - self._loop.time())
            await self._backend.flush(timeout=min(left, longest))

    # -- the loop

    async def _run(self) -> None:
        supply, hands = self._supply, self._hands
        try:
            while not supply.stopping:
                if not self._running.is_set():
                    await self._sit_out_pause()
                elif supply.recess is not None and supply.recess.on:
                    await supply.waits.wait(supply.recess.over())
                elif room := hands.room():
                    await (self._turn(room) if self._pace is None else self._paced_turn(self._pace, room))
                else:
                    await supply.waits.wait(hands.until_room())
        except BrokerError as exc:
            if not supply.stopping:
                if isinstance(exc, StreamNotFound | NoStream):
                    self._announcer.tell(ConsumerEventKind.STREAM_DELETED, str(exc))
                log.exception("consuming %s from %s ended", self.consumer, self.stream)
                raise
        finally:
            try:
                await supply.source.close()
            finally:
                self._announcer.end()

    async def _paced_turn(self, pace: Pace, room: int) -> None:
        if allowed := pace.allowance(room):
            await self._turn(allowed)
        else:
            await self._supply.waits.wait(asyncio.sleep(pace.delay()))

    async def _turn(self, room: int) -> None:
        supply = self._supply
        try:
            batch = await supply.waits.wait(
                supply.source.fetch(room, timeout=_FETCH, max_bytes=self._options.max_bytes)
            )
        except ConsumerNotFound as exc:
            await self._reopen(exc)
            return
        except (ConnectionLost, RequestTimeout) as exc:
            log.warning("fetching for %s: %s", self.consumer, exc)
            await supply.waits.wait(asyncio.sleep(REOPEN_PAUSE[0]))
            return
        if batch:
            self._backend.stats.delivered += len(batch)
            if self._pace is not None:
                self._pace.took(batch)
            await self._hands.take(batch)

    async def _sit_out_pause(self) -> None:
        supply = self._supply
        await supply.pause()
        await self._hands.give_back_waiting()
        await supply.waits.wait(self._running.wait())
        if not supply.stopping and self._running.is_set():
            await supply.resume()

    async def _reopen(self, error: ConsumerNotFound) -> None:
        supply = self._supply
        await supply.reopen(error)
        self.stream, self.consumer = supply.source.stream, supply.source.consumer

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
        ack_wait = self._supply.consumer.ack_wait
        while True:
            asleep = self._loop.time()
            await self._supply.until_extending()
            if (stood := self._loop.time() - asleep) > ack_wait:
                log.warning(_STOOD_STILL, stood, ack_wait, self.consumer)
            held = [message.delivery for message in self._hands.held if not message.settled]
            if held:
                self._backend.stats.extended += len(held)
                with suppress(BrokerError):
                    await self._supply.source.extend(held)


def _kind_of_hands(handler: Callable[..., Any], options: ConsumeOptions) -> type[Hands]:
    if options.batch_size is not None:
        return BatchHands
    return TaskHands if is_async(handler) else InlineHands


def _retrieve(runner: asyncio.Task[None]) -> None:
    """Its error is logged and raised by ``wait``; nobody has to call that."""
    error = None if runner.cancelled() else runner.exception()
    if error is not None and not isinstance(error, BrokerError):  # those were logged where they happened
        log.error("%s ended", runner.get_name(), exc_info=error)
