"""``consume(ordered=True)``: the lanes that are one worker's share, taken and left as workers come and go."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Self

from broker.announcing import Announcer
from broker.consuming import Consumption
from broker.contracts.claims import Claim
from broker.contracts.errors import (
    ApiError,
    BrokerError,
    ConnectionLost,
    ConsumerNotFound,
    InvalidOption,
    NoStream,
    RequestTimeout,
)
from broker.contracts.events import ConsumerEventKind
from broker.contracts.lanes import Lane, lane_consumer
from broker.contracts.options import in_range
from broker.lanes.assignment import assignment
from broker.lanes.lane import Duty, LaneConsumption
from broker.lanes.membership import Membership, refuse_the_other_way
from broker.lanes.parked import Parked
from broker.slots import LAST_WORDS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from broker.contracts.backend import StreamBackend
    from broker.contracts.codec import Codec
    from broker.contracts.options import ConsumeOptions, ConsumerOptions
    from broker.dead_letters import DeadLetters, DeadLetterWriter
    from broker.enqueueing import Enqueuer
    from broker.messages import StreamMessage

log = logging.getLogger("broker.lanes")

GROUP: Final = "lane"
HELD: Final = 2.0
"""Seconds after which a worker that is not heard of loses its pin and its unsettled message."""
_TURN: Final = 1.0
_LOOK: Final = 2.0
"""Seconds between two looks at how many lanes the stream has."""
_RELEASE: Final = 86_400.0
"""Seconds: no handler is cut short because somebody else is to have its lane."""


class OrderedConsumption(Consumption):
    """A running ``consume(ordered=True)``: one consumption for each lane that is this worker's share.

    Attributes:
        stream: where the messages come from.
        consumer: the group's name; its stored position is one consumer for each lane.
    """

    def __init__(  # one loop per lane instead of the one the base would set up
        self,
        handler: Callable[[StreamMessage], Any],
        *,
        consumer: ConsumerOptions,
        options: ConsumeOptions,
        backend: StreamBackend,
        codec: Codec,
        enqueuer: Enqueuer,
        dead_letters: DeadLetters,
        letters: DeadLetterWriter | None,
        forget: Callable[[Consumption], None],
    ) -> None:
        if consumer.durable is None:
            raise InvalidOption("ordered=True needs queue= or durable=: the group's name", option="queue")
        _check_possible(consumer, options)
        self._announcer = Announcer(backend)
        self._consumer = consumer
        self._options = options
        self._backend = backend
        self._codec = codec
        self._enqueuer = enqueuer
        self._dead_letters = dead_letters
        self._letters = letters
        self._forget = forget
        self._handler = handler
        self._loop = asyncio.get_running_loop()
        self._lanes: dict[Lane, LaneConsumption] = {}
        self._leaving: dict[Lane, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._manager: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._askers: set[asyncio.Task[Any] | None] = set()
        self._stopping = self._resting = False
        self._counts: tuple[int, ...] = ()
        self._generation = 0
        self._drained_looks = 0
        self.stream = ""
        self.consumer = consumer.durable

    @property
    def in_hand(self) -> int:
        """Messages handed to handlers and not settled yet."""
        return sum(lane.in_hand for lane in self._lanes.values())

    @property
    def stopping(self) -> bool:
        """Whether it is coming to its end."""
        return self._stopping

    @property
    def lanes(self) -> frozenset[int]:
        """The lanes this worker holds now."""
        return frozenset(lane.number for lane in self._lanes if lane not in self._leaving)

    @property
    def parked_keys(self) -> int:
        """How many keys of these lanes have something waiting: for a backoff, or for a decision about a dead letter."""
        return sum(len(lane.parking.keys) for lane in self._lanes.values())

    async def start(self) -> Self:
        """Find the lanes and the other workers, take this worker's share."""
        stream = self._consumer.stream or await self._backend.find_stream(self._consumer.filters[0])
        if stream is None:
            subject = self._consumer.filters[0]
            raise NoStream(f"no stream captures {subject!r}; declare one whose subjects match it", subject=subject)
        self.stream = stream
        info = await self._backend.stream_info(stream)
        if not info.lane_counts:
            told = f"stream {stream!r} has no lanes: declare it with StreamOptions(lanes=...) for ordered=True"
            raise InvalidOption(told, option="ordered")
        if self._consumer.ensure != "bind":
            await refuse_the_other_way(self._backend, stream, self.consumer)
        self._counts, self._made = info.lane_counts, info.created
        self._duty = self._make_duty(stream)
        if self._consumer.ensure != "bind":
            await self._duty.parked.prepare(info.config.replicas)
        if self._letters is not None:
            await self._letters.prepare(stream)
        await self._skip_drained()
        self._members = Membership(self._backend, stream, self.consumer, self._changed.set)
        try:
            await self._members.join()
            await self._share()
        except BaseException:
            await self._abandon()
            raise
        self._announcer.begin(stream, self.consumer)
        self._manager = self._loop.create_task(self._manage(), name=f"lanes {self.consumer}")
        return self

    def _make_duty(self, stream: str) -> Duty:
        parked = Parked(
            self._backend, self._enqueuer, self._codec, self._dead_letters, stream=stream, queue=self.consumer
        )
        return Duty(
            handler=self._handler,
            at_once=asyncio.Semaphore(self._options.concurrency),
            queue=self.consumer,
            parked=parked,
            options=self._options,
            backend=self._backend,
            codec=self._codec,
            letters=self._letters,
            announcer=self._announcer,
            ended=self._changed.set,
            askers=self._askers,
        )

    async def wait(self) -> None:
        """Until it is drained; raises what made going on impossible (see ``Consumption.wait``)."""
        self._backend.board.check_loop()
        self._askers.add(asyncio.current_task())
        await asyncio.wait([self._over])
        self._over.result()

    async def pause(self) -> None:
        """Leave the lanes to the others; handlers that run go on."""
        self._backend.board.check_loop()
        if self._stopping:
            return
        if not self._resting:
            self._announcer.tell(ConsumerEventKind.PAUSED)
        self._resting = True
        self._leave_but(())
        await self._members.leave()

    async def resume(self) -> None:
        """Take a share again after ``pause``; nothing comes of it after ``drain``."""
        self._backend.board.check_loop()
        if not self._resting or self._stopping:
            return
        self._resting = False
        self._announcer.tell(ConsumerEventKind.RESUMED)
        try:
            await self._members.join()
        except BaseException:
            await self.pause()
            raise
        self._changed.set()

    async def drain(self, timeout: float = 25.0, *, caller: asyncio.Task[Any] | None = None) -> None:
        """Leave every lane: let handlers finish and settle, give back the rest; idempotent.

        Handlers still running after ``timeout`` seconds are cancelled and their messages given back; ``caller``, a
        handler that waits for this, is left alone, as every other one that does. Once begun it goes on by itself, also
        when cancelled.

        Raises:
            InvalidOption, Unsupported: see ``Consumption.drain``.
        """
        self._backend.board.check_loop()
        in_range("timeout", timeout, 0)
        self._stopping = True
        self._askers |= {caller, asyncio.current_task()}
        self._ending = self._loop.create_task(self._end(timeout, self._askers), name=f"drain {self.consumer}")
        await asyncio.shield(self._ending)

    async def _end(self, timeout: float, this: set[asyncio.Task[Any] | None]) -> None:
        manager = self._manager
        if manager is not None and manager not in this:
            manager.cancel()
            await asyncio.wait([manager])
        await self._members.leave()
        await asyncio.gather(*(lane.drain(timeout) for lane in self._lanes.values()))
        if self._leaving:  # one of them may be waiting for the handler that waits for this
            await asyncio.wait(self._leaving.values(), timeout=LAST_WORDS)
        self._lanes.clear()
        self._announcer.end()
        self._forget(self)
        if not self._over.done():
            self._over.set_result(None)

    def _state(self) -> str:
        """See ``Consumption``."""
        if self._over.done():
            return "failed" if self._over.exception() is not None else "ended"
        if self._stopping:
            return "draining"
        return "paused" if self._resting else "running"

    # -- taking and leaving lanes

    async def _manage(self) -> None:
        look_at = self._loop.time() + _LOOK
        try:
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_TURN):
                        await self._changed.wait()
                self._changed.clear()
                self._check_lanes()
                try:
                    if self._loop.time() >= look_at:
                        look_at = self._loop.time() + _LOOK
                        await self._look_at_stream()
                    if not self._resting:
                        await self._share()
                except (ConnectionLost, RequestTimeout) as exc:
                    log.warning("sharing the lanes of %s: %s", self.stream, exc)
                except ApiError as exc:
                    if not exc.transient:
                        raise
        except BrokerError as exc:
            if not self._stopping:
                log.exception("consuming %s from %s ended", self.consumer, self.stream)
                await self._abandon()
                self._over.set_exception(exc)
                self._over.exception()  # logged above, and raised by wait(), which nobody has to call
                self._forget(self)

    def _check_lanes(self) -> None:
        for lane in self._lanes.values():
            if lane.failure is not None:
                raise lane.failure

    async def _share(self) -> None:
        """Hold exactly the lanes that are this worker's share."""
        count = self._counts[self._generation]
        mine = {Lane(self._generation, index) for index in assignment(self._members.workers, count)[self._members.me]}
        self._leave_but(mine)
        opening = [self._take(lane, count) for lane in sorted(mine - self._lanes.keys())]
        errors = [each for each in await asyncio.gather(*opening, return_exceptions=True) if each is not None]
        if errors:
            raise errors[0]

    def _leave_but(self, mine: Collection[Lane]) -> None:
        for lane in self._lanes.keys() - set(mine) - self._leaving.keys():
            self._leaving[lane] = self._loop.create_task(self._leave(lane), name=f"leave {self.consumer} {lane.number}")

    async def _leave(self, lane: Lane) -> None:
        try:
            await self._lanes[lane].drain(_RELEASE)
        finally:
            self._lanes.pop(lane, None)
            self._leaving.pop(lane, None)
            self._changed.set()

    async def _take(self, lane: Lane, count: int) -> None:
        consumption = LaneConsumption(self._duty, self._lane_options(lane), lane, count)
        await consumption.start()
        self._lanes[lane] = consumption
        if self._resting:  # since it was begun
            self._leave_but(())

    def _name(self, lane: Lane) -> str:
        return lane_consumer(self.consumer, lane)

    def _lane_options(self, lane: Lane) -> ConsumerOptions:
        asked = self._consumer
        return replace(
            asked,
            durable=self._name(lane),
            queue=self.consumer,
            stream=self.stream,
            lane=lane,
            max_ack_pending=1,
            ack_wait=min(asked.ack_wait, HELD) if self._options.auto_extend else asked.ack_wait,
            **self._pinning(),
        )

    def _pinning(self) -> dict[str, Any]:
        """One worker for each lane, as the server has it; elsewhere one unsettled message at a time has to do."""
        if not self._backend.capabilities.groups_by_priority:
            return {}
        group = {"priority_policy": "pinned_client", "priority_groups": (GROUP,), "priority_timeout": HELD}
        return {**group, "claim": Claim(group=GROUP)}

    async def _abandon(self) -> None:
        """Leave everything now. Once begun it goes on by itself: cancelled half-way it would leave lanes at work."""
        await asyncio.shield(self._loop.create_task(self._leave_all(), name=f"abandon {self.consumer}"))

    async def _leave_all(self) -> None:
        await self._members.leave()
        await asyncio.gather(*(lane.drain(0) for lane in tuple(self._lanes.values())))
        self._lanes.clear()
        self._announcer.end()

    # -- the number of lanes

    async def _look_at_stream(self) -> None:
        """Follow a change of the number of lanes, but not before everything filed by the old one is done."""
        info = await self._backend.stream_info(self.stream)
        counts = info.lane_counts
        if not counts:
            raise NoStream(f"stream {self.stream!r} has no lanes any more", stream=self.stream)
        if info.created != self._made:  # deleted and made again
            self._made, self._generation = info.created, 0
            self._leave_but(())
        elif len(counts) > len(self._counts):
            told = "%s has %d lanes now; what is filed in the %d before is worked off first"
            log.warning(told, self.stream, counts[-1], self._counts[-1])
        self._counts = counts
        behind = self._generation < len(counts) - 1
        for lane in self._lanes.values():
            lane.retiring = behind
        if not behind:
            return
        self._drained_looks = self._drained_looks + 1 if await self._is_drained(self._generation) else 0
        if self._drained_looks > 1:
            self._drained_looks = 0
            self._generation += 1

    async def _skip_drained(self) -> None:
        while self._generation < len(self._counts) - 1 and await self._is_drained(self._generation):
            self._generation += 1

    async def _is_drained(self, generation: int) -> bool:
        """Whether everything filed in those lanes was handled by this group. Nothing more comes into them."""
        for index in range(self._counts[generation]):
            try:
                info = await self._backend.consumer_info(self.stream, self._name(Lane(generation, index)))
            except ConsumerNotFound:
                return False
            if info.pending or info.ack_pending:
                return False
        return True


def _check_possible(consumer: ConsumerOptions, options: ConsumeOptions) -> None:
    """Refuse what is said about one flow of messages: here is one for each lane.

    Raises:
        InvalidOption.
    """
    said_once = ("batch_size", "rate", "byte_rate", "max_bytes", "reschedule_after")
    contradictions = {
        **{option: getattr(options, option) is not None for option in said_once},
        "on_error": "pause" in options.on_error.values(),
        "priority_group": consumer.claim is not None,
        "headers_only": consumer.headers_only,
    }
    for option, said in contradictions.items():
        if said:
            what = "'pause' in on_error" if option == "on_error" else option
            raise InvalidOption(f"{what} contradicts ordered=True: lanes are worked through one by one", option=option)
