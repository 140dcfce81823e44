"""One lane at work: messages one after the other, each only when its key's earlier ones are done with."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Self

from broker.announcing import Announcer
from broker.consuming import Consumption
from broker.contracts.errors import (
    BrokerClosed,
    BrokerError,
    PayloadTooLarge,
    PermissionDenied,
    SequenceConflict,
    StreamFull,
    Unauthorized,
)
from broker.lanes.parking import Parking, Verdict
from broker.lanes.records import turn_of, when_made
from broker.lanes.settling import LaneSettler
from broker.lanes.source import LaneSource, Past
from broker.settling import where

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.contracts.admin import StreamInfo
    from broker.contracts.backend import DeliverySource, StreamBackend
    from broker.contracts.codec import Codec
    from broker.contracts.envelopes import Delivery
    from broker.contracts.lanes import Lane
    from broker.contracts.options import ConsumeOptions, ConsumerOptions, Start
    from broker.dead_letters import DeadLetterWriter
    from broker.lanes.parked import Parked
    from broker.lanes.parking import Waiting
    from broker.messages import StreamMessage

log = logging.getLogger("broker.lanes")

_PAUSE: Final = 0.5
_POLL: Final = 1.0
"""Seconds between two looks at dead letters that somebody has to decide about."""
_POLLED: Final = 32
_SETTLING_IN: Final = 5.0
"""Seconds after which a new holder looks again: the one before it may have parked its last message meanwhile."""
_REFRESH: Final = 60.0
_TRIES: Final = 3
_BLOCKED: Final = 1.0
"""Seconds a lane waits when what must be parked cannot be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Duty:
    """What all lanes of one worker have in common.

    Attributes:
        handler: the user's.
        at_once: handlers running at once, over all lanes.
        queue: the group's name.
        parked: where its messages wait for their turn.
        announcer: told what happens to any of them.
        ended: called when a lane ended by itself.
        askers: who waits for the worker's end: no lane waits for them.
    """

    handler: Callable[[StreamMessage], Any]
    at_once: asyncio.Semaphore
    queue: str
    parked: Parked
    options: ConsumeOptions
    backend: StreamBackend
    codec: Codec
    letters: DeadLetterWriter | None
    announcer: Announcer
    ended: Callable[[], None]
    askers: set[asyncio.Task[Any] | None]


class LaneConsumption(Consumption):
    """Works through one lane and tends what waits in it."""

    def __init__(self, duty: Duty, consumer: ConsumerOptions, lane: Lane, lanes: int) -> None:
        super().__init__(
            self._take_turn,
            consumer=consumer,
            options=replace(duty.options, concurrency=1),
            backend=duty.backend,
            codec=duty.codec,
            letters=None,
            forget=lambda _: None,
            open_consumer=self._open_lane,
            settler_for=self._settler_for,
            announcer=Announcer(duty.backend, duty.announcer),
        )
        self.lane = lane
        self.retiring = False
        self.parking = Parking()
        self._duty = duty
        self._lanes = lanes
        self._askers = duty.askers
        self._past = Past()
        self._parked = duty.parked
        self._book = asyncio.Lock()
        self._stir = asyncio.Event()
        self._tender: asyncio.Task[None] | None = None

    async def start(self) -> Self:
        """Open the lane and begin."""
        await super().start()
        self._tender = self._loop.create_task(self._tend(), name=f"tend {self.consumer}")
        if self._runner is not None:
            self._runner.add_done_callback(lambda _: self._duty.ended())
        return self

    @property
    def queue(self) -> str:
        """The group it works for."""
        return self._duty.queue

    @property
    def stream_made(self) -> int:
        """When the stream was made whose lane it is."""
        return self._parked.made

    @property
    def lapsed(self) -> bool:
        """Whether what is in hand may be somebody else's by now."""
        return self._lane_source.lapsed

    @property
    def failure(self) -> BaseException | None:
        """Why it ended by itself; ``None`` while it runs and after it was told to stop."""
        runner = self._runner
        if runner is None or not runner.done() or runner.cancelled():
            return None
        return runner.exception()

    def _wind_down(self) -> None:
        """Its worker is told (see ``Duty.ended``), and brings all of its lanes to their end."""

    async def _end(self, timeout: float, this: set[asyncio.Task[Any] | None]) -> None:
        tender, self._tender = self._tender, None
        if tender is not None:
            tender.cancel()
            await asyncio.wait([tender])
        await super()._end(timeout, this)

    async def _open_lane(self, consumer: ConsumerOptions) -> LaneSource:
        """Behind what was settled here; a stream that was deleted and made again begins anew."""
        stream = await self._look_at_stream()
        while True:
            source = await self._backend.open_consumer(replace(consumer, start=self._begin(consumer, stream)))
            try:
                before, stream = stream, await self._look_at_stream()
                if before.created == stream.created:
                    await self._belong_to(stream)
                    break
            except BaseException:
                await source.close()
                raise
            await source.close()
        self._lane_source = LaneSource(source, consumer.ack_wait, self._past, self._recall)
        return self._lane_source

    async def _look_at_stream(self) -> StreamInfo:
        return await self._backend.stream_info(self._supply.consumer.stream or "")

    def _begin(self, consumer: ConsumerOptions, stream: StreamInfo) -> Start:
        """Where a consumer begins that has to be made."""
        if when_made(stream) != self._past.made or not self._past.floor or stream.config.retention == "workqueue":
            return self._supply.consumer.start
        return max(self._past.floor + 1, consumer.start if isinstance(consumer.start, int) else 0)

    async def _belong_to(self, stream: StreamInfo) -> None:
        """What is known of a former stream of that name says nothing about this one."""
        made = when_made(stream)
        if made != self._past.made:
            async with self._book:
                self._past, self._parked = Past(made), self._duty.parked.of(stream)
                self.parking.replace(())

    def _settler_for(self, source: DeliverySource) -> LaneSettler:
        self._settler = LaneSettler(source, self._backend.stats, self._options, self._duty.letters, self)
        return self._settler

    # -- one message

    async def _recall(self, copied: Delivery) -> Delivery | None:
        """The message that a next attempt is one at; ``None`` when there is nothing to try any more."""
        while True:
            try:
                async with self._book:
                    whole = await self._parked.recall(copied)
                    waiting = self.parking.of_turn(copied.lane_key or "", turn_of(copied) or 0)
                    if whole is None and waiting is not None:
                        self._now(waiting, await self._parked.find(waiting.key, waiting.order))
                    return whole
            except (BrokerClosed, Unauthorized, PermissionDenied):
                raise
            except BrokerError as exc:
                log.warning("what waits in lane %s of %s cannot be read now: %s", self.lane, self.stream, exc)
                await asyncio.sleep(_PAUSE)

    async def _take_turn(self, message: StreamMessage) -> None:
        """What the lane does with a message; a handler's exception passes through and becomes its outcome."""
        delivery = message.delivery
        await self._know()
        verdict = await self._judge(delivery)
        if self.lapsed:
            message.mark_settled("lapsed")  # left to whoever has it now, or to come again
        elif verdict is Verdict.PARK:
            await self._park_behind(message)
        elif verdict is Verdict.HANDLE:
            async with self._duty.at_once:
                result = self._duty.handler(message)
                if inspect.isawaitable(result):
                    await result
            if not message.settled:
                await self.release(message.delivery)

    async def _judge(self, delivery: Delivery) -> Verdict:
        key, order, turn = delivery.lane_key or "", delivery.sequence, turn_of(delivery)
        async with self._book:
            waiting = self.parking.find(key, order)
            if turn is not None and waiting is None:
                # Done with, as far as we know. A second look costs little, and a wrong drop would cost the message.
                waiting = await self._parked.find(key, order)
                if waiting is not None:
                    self.parking.park(waiting)
            verdict = self.parking.judge(key, order, turn)
            if verdict is Verdict.DROP and waiting is not None and waiting.sequence == turn:
                waiting.sent = False  # it came too early
            return verdict

    async def _know(self) -> None:
        """Learn what waits in this lane, unless nobody else can have changed it."""
        while True:
            try:
                async with self._book:
                    if not self._lane_source.missed:
                        return
                    await self._load()
            except (BrokerClosed, Unauthorized, PermissionDenied):
                raise
            except BrokerError as exc:
                log.warning("what waits in lane %s of %s is not known yet: %s", self.lane, self.stream, exc)
                await asyncio.sleep(_PAUSE)

    async def _load(self) -> None:
        """Read the book anew; called with the book in hand."""
        source = self._lane_source
        source.missed = False
        try:
            found = await self._parked.load(self.lane.number, self._lanes)
        except BaseException:
            source.missed = True
            raise
        self.parking.replace(found)
        self._stir.set()

    async def _park_behind(self, message: StreamMessage) -> None:
        delivery = message.delivery
        try:
            await self.park(delivery, attempts=max(0, delivery.attempt - 1))
        except BrokerError as exc:
            log.warning("%s must wait for its turn and cannot be parked: %s", where(delivery), exc)
            if message.mark_settled("nak"):
                await self._lane_source.nak(delivery, delay=_BLOCKED)

    async def park(self, delivery: Delivery, *, attempts: int, due: float = 0.0, letter: int | None = None) -> None:
        """It waits from now on, on the server and in our book.

        Raises:
            BrokerError: it is not certain that it is kept; our book is read anew before the next message.
        """
        async with self._book:
            try:
                waiting = await self._parked.park(delivery, attempts=attempts, due=due, letter=letter)
            except SequenceConflict:  # decided about already: what there is now holds
                self._lane_source.missed = True
                self._stir.set()
                return
            except BaseException:
                self._lane_source.missed = True
                raise
            self.parking.park(waiting)
        self._stir.set()

    async def release(self, delivery: Delivery) -> None:
        """It is done: what waits behind it has its turn. Before the ack, so that no key is held up by what is done."""
        key, order = delivery.lane_key or "", delivery.sequence
        for left in reversed(range(_TRIES)):
            async with self._book:
                waiting = self.parking.find(key, order)
                if waiting is None:
                    return
                try:
                    await self._parked.release(waiting)
                except BrokerError:
                    if not left:
                        raise
                else:
                    self.parking.release(key, order)
                    break
            await asyncio.sleep(_PAUSE)
        self._stir.set()

    # -- what waits

    async def _tend(self) -> None:
        """Send what is due into the lane, and ask what became of dead letters."""
        clock = self._loop.time
        polled, refresh = clock(), clock() + _SETTLING_IN
        while True:
            try:
                await self._know()
                if clock() >= refresh:
                    refresh = clock() + _REFRESH
                    async with self._book:
                        await self._load()
                if not self.retiring:
                    await self._send_due()
                if clock() >= polled + _POLL:
                    polled = clock()
                    await self._ask_about_dead()
            except BrokerError as exc:
                log.warning("lane %s of %s cannot be tended now: %s", self.lane, self.stream, exc)
                await asyncio.sleep(_PAUSE)
            await self._until_stirred(refresh - clock())

    async def _until_stirred(self, most: float) -> None:
        due = self.parking.next_due()
        wait = _POLL if self.parking.dead() else most
        if due is not None and not self.retiring:
            wait = min(wait, due - time.time())
        with suppress(TimeoutError):
            async with asyncio.timeout(max(wait, 0.01)):
                await self._stir.wait()
        self._stir.clear()

    async def _send_due(self) -> None:
        for waiting in self.parking.due(time.time()):
            try:
                await self._send(waiting)
            except (StreamFull, PayloadTooLarge) as exc:
                log.warning("the next attempt at %s of %s finds no room: %s", waiting.order, self.stream, exc)
                delivery = await self._parked.as_delivery(waiting)
                if delivery is not None:
                    await self._settler.refused(delivery, exc)

    async def _send(self, waiting: Waiting) -> None:
        async with self._book:
            if self._is_current(waiting) and not waiting.sent:
                waiting.sent = await self._parked.send(waiting, self.lane, self.consumer)
                if not waiting.sent:  # somebody removed it
                    self._now(waiting, await self._parked.find(waiting.key, waiting.order))

    async def _ask_about_dead(self) -> None:
        for waiting in self.parking.dead()[:_POLLED]:
            async with self._book:
                if self._is_current(waiting):
                    self._now(waiting, await self._parked.decided(waiting))

    def _is_current(self, waiting: Waiting) -> bool:
        return self.parking.find(waiting.key, waiting.order) is waiting

    def _now(self, waiting: Waiting, now: Waiting | None) -> None:
        """What waited so a moment ago waits like this now, or not at all."""
        if now is None:
            self.parking.release(waiting.key, waiting.order)
        elif now is not waiting:
            self.parking.park(now)
        else:
            return
        self._stir.set()
