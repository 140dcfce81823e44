"""One seed's world: the server, the processes, what is done to them, and the way back to rest."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from random import Random
from typing import TYPE_CHECKING, Any, Final

from broker import StreamBroker, StreamOptions
from broker.backends.memory import MemoryBackend, MemoryHub
from broker.contracts.errors import ConsumerNotFound
from broker.dead_letters import DEAD_STREAM
from broker.lanes.records import PARKED_STREAM
from broker.rescheduling.copies import LATER_STREAM
from loadtest.sim.bank import Bank, Settlement
from loadtest.sim.processes import Process, Producer, Worker
from loadtest.sim.shape import KINDS

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from loadtest.sim.certainty import WallClock
    from loadtest.sim.loop import VirtualLoop
    from loadtest.sim.shape import Event, Plant, Shape

STREAM: Final = "SETTLEMENTS"
_PATIENCE: Final = 300.0
"""Seconds without faults after which everything must have come to rest; nobody waits for them."""
_LOOK: Final = 0.25
_CALM_LOOKS: Final = 3
_REPLAYS: Final = 6


class World:
    """Everything one seed is made of.

    Attributes:
        trace: what happened: when, to whom, what.
        receipts: what producers were told, and have written down: the sequence of each.
        restless: what had not come to rest in time; empty when everything did.
        cured: whether what always failed succeeds from now on.
        over: whether nobody is to be started again.
    """

    def __init__(self, seed: int, shape: Shape, loop: VirtualLoop, wall: WallClock, plant: Plant | None) -> None:
        self.shape = shape
        self.plant = plant
        self.weather = shape.weather
        self.dice = Random(f"weather {seed}")
        self.bank = Bank()
        self.hub = MemoryHub()
        self.trace: list[tuple[float, str, str]] = []
        self.receipts: dict[Settlement, int] = {}
        self.restless: list[str] = []
        self.cured = self.over = False
        self.admin = StreamBroker(MemoryBackend(self.hub))
        self._loop = loop
        self._wall = wall
        self._sent = {each for journal in shape.journals for each in journal}
        self._afterlives: dict[asyncio.Task[None], None] = {}
        self._producers = [Producer(self, f"producer-{at}", journal) for at, journal in enumerate(shape.journals)]
        self._workers = [Worker(self, f"worker-{at}") for at in range(shape.workers)]

    def note(self, who: str, what: str) -> None:
        """A line of the trace."""
        self.trace.append((self._loop.time(), who, what))

    def afterlife(self, burial: Coroutine[Any, Any, None]) -> None:
        """Somebody is gone; this sweeps up, and starts it again."""
        task = self._loop.create_task(burial)
        self._afterlives[task] = None
        task.add_done_callback(self._afterlives.pop)

    async def run(self) -> None:
        """From the beginning until everybody has left."""
        await self.admin.declare(StreamOptions(STREAM, [f"{kind}.>" for kind in KINDS], **self.shape.stream))
        for process in self._everybody:
            process.start()
        for event in self.shape.events:
            await asyncio.sleep(max(0.0, event.at - self._loop.time()))
            await self._do(event)
        await asyncio.sleep(max(0.0, self.shape.lasts - self._loop.time()))
        await self._come_to_rest()
        self.over = True
        for process in self._everybody:
            await process.leave()
        while self._afterlives:
            await asyncio.wait(tuple(self._afterlives))

    @property
    def _everybody(self) -> list[Process]:
        return [*self._producers, *self._workers]

    # -- what is done to them

    async def _do(self, event: Event) -> None:
        self.note("event", f"{event.deed} {event.strength:.3f}")
        if event.deed == "clock":
            self._wall.set((event.strength - 0.5) * 20)
        elif event.deed == "stall":
            self._loop.leap(event.strength * 5)
        elif event.deed == "forget":
            self._forget(event.strength)
        else:
            await self._strike(event)

    async def _strike(self, event: Event) -> None:
        living = [each for each in self._everybody if each.alive]
        if not living:
            return
        struck = living[int(event.strength * len(living))]
        if event.deed == "crash":
            struck.crash("out of the blue")
        elif event.deed == "break" and struck.wire is not None:
            struck.wire.break_off()
            self._loop.call_later(event.strength * 5, struck.wire.mend)
        elif event.deed == "leave" and isinstance(struck, Worker):
            await struck.leave()
            if not struck.alive:
                struck.start()

    def _forget(self, which: float) -> None:
        """The server loses a consumer: somebody deleted it."""
        stream = self.hub.streams.find(STREAM)
        names = sorted(stream.consumers)
        if names:
            with suppress(ConsumerNotFound):
                stream.delete_consumer(names[int(which * len(names))])

    # -- the end

    async def _come_to_rest(self) -> None:
        """No more faults: everything is sent, settled or dead; then what is dead is cured and replayed."""
        self.note("calm", "")
        self.weather.clear_up()
        for process in self._everybody:
            if process.wire is not None:
                process.wire.mend()
        deadline = self._loop.time() + _PATIENCE
        if not await self._rested(deadline):
            return
        self.cured = True
        for _ in range(_REPLAYS):
            replayed = await self.admin.dead_letters.replay()
            self.note("replay", str(replayed))
            if not await self._rested(deadline) or not replayed:
                return
        self.restless.append("dead letters come back however often they are replayed")

    async def _rested(self, deadline: float) -> bool:
        calm = 0
        while calm < _CALM_LOOKS:
            if self._loop.time() > deadline:
                self.restless = self._unrest()
                return False
            calm = 0 if self._unrest() else calm + 1
            await asyncio.sleep(_LOOK)
        return True

    def _unrest(self) -> list[str]:
        """Who still has something to do."""
        unrest = [f"{each.name} has something to send" for each in self._producers if not each.done]
        streams = self.hub.streams
        stream = streams.find(STREAM)
        if not stream.consumers:
            unrest.append("nobody consumes")
        for name, consumer in sorted(stream.consumers.items()):
            info = consumer.info()
            if info.pending or info.ack_pending:
                unrest.append(f"{name} has {info.pending} to hand out and {info.ack_pending} unsettled")
        later = streams.get(LATER_STREAM)
        if later is not None and len(later.log):
            unrest.append(f"{len(later.log)} wait for later")
        dead, parked = (streams.get(name) for name in (DEAD_STREAM, PARKED_STREAM))
        letters = len(dead.log) if dead is not None else 0
        behind = len(parked.log) if parked is not None and letters else 0
        missing = self._sent - {each.settlement for each in self.bank.log}
        if len(missing) > max(letters, behind):
            unrest.append(f"{len(missing)} are neither applied nor dead, nor do they wait behind what is dead")
        return unrest
