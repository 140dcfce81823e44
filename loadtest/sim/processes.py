"""The processes of the model: producers that send until they know, workers that settle; gone at any await."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final, cast

from broker import Entry, StreamBroker
from broker.contracts.errors import BrokerError, EnqueueManyError, InvalidOption
from loadtest.sim.bank import Applied, Settlement, Unavailable
from loadtest.sim.shape import KINDS
from loadtest.sim.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker import StreamMessage
    from loadtest.sim.world import World

_PAUSE: Final = 0.2
_LONGEST_HANG: Final = 6.0
"""Seconds: three times the longest ack wait."""


class Poisoned(Exception):
    """A settlement that fails, this time or until somebody cures it."""


class Gone(Exception):
    """The process does not exist any more."""


class Process(ABC):
    """Something that runs, is killed, and is started again.

    Args:
        world: where.
        name: who.
    """

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.life = 0
        self.wire: Wire | None = None
        self.broker: StreamBroker | None = None
        self._main: asyncio.Task[None] | None = None

    def start(self) -> None:
        """A new life, that knows nothing of the one before."""
        world = self.world
        self.life += 1
        self.wire = Wire(world.hub, f"{self.name}.{self.life}", world.weather, world.dice, world.note)
        self.wire.on_call = lambda: self.may_crash("call", 0.1)
        self.broker = StreamBroker(cast("Any", self.wire))
        self._main = asyncio.get_running_loop().create_task(self._live(self.wire, self.broker), name=self.wire.name)

    @property
    def alive(self) -> bool:
        """Whether there is one."""
        return self.wire is not None and not self.wire.dead

    def may_crash(self, where: str, often: float = 1.0) -> None:
        """Perhaps this is the end."""
        if self.wire is not None and self.wire.happens(self.world.weather.crash * often):
            self.crash(where)

    def crash(self, where: str) -> None:
        """Gone: its memory, its tasks, and whatever it was about to say."""
        wire, broker, main = self.wire, self.broker, self._main
        if wire is None or broker is None or main is None or wire.dead:
            return
        wire.note("crash", where)
        wire.cut()
        self.world.afterlife(self._bury(wire, broker, main))

    async def _bury(self, wire: Wire, broker: StreamBroker, main: asyncio.Task[None]) -> None:
        """Its tasks are swept away without effect; the server notices, and it is started again."""
        main.cancel()
        await asyncio.wait([main])
        await broker.aclose()
        await asyncio.sleep(self.world.dice.random() * 2)
        await wire.bury()
        await asyncio.sleep(self.world.dice.random())
        if not self.world.over and not self.alive:
            self.start()

    async def leave(self) -> None:
        """Told to stop (SIGTERM), it drains and ends."""
        wire, broker, main = self.wire, self.broker, self._main
        if wire is None or broker is None or main is None or wire.dead:
            return
        wire.note("leave", "")
        main.cancel()
        await asyncio.wait([main])
        await broker.drain(5.0)
        if wire.dead:  # killed while it was leaving: somebody buries it
            return
        wire.cut()
        await wire.bury()

    async def _live(self, wire: Wire, broker: StreamBroker) -> None:
        while not wire.dead:
            try:
                await self._work(broker)
            except InvalidOption:
                raise  # a mistake of the model's
            except BrokerError as exc:
                wire.note("error", type(exc).__name__)
                await asyncio.sleep(_PAUSE)
            else:
                return

    @abstractmethod
    async def _work(self, broker: StreamBroker) -> None:
        """What it is there for; called again after an error of the library's."""


class Producer(Process):
    """Sends its journal. What it knows to be stored survives it; the rest is sent again with the same key."""

    def __init__(self, world: World, name: str, journal: Sequence[Settlement]) -> None:
        super().__init__(world, name)
        self._left = list(journal)

    @property
    def done(self) -> bool:
        """Whether everything is known to be stored."""
        return not self._left

    async def _work(self, broker: StreamBroker) -> None:
        sending = self.world.shape.sending
        while self._left and self.alive:
            await asyncio.sleep(self.world.dice.random() * 0.3)
            if sending == "one":
                await self._one(broker, self._left[0])
            elif sending == "many":
                await self._many(broker)
            else:
                await self._atomic(broker)

    async def _one(self, broker: StreamBroker, settlement: Settlement) -> None:
        entry = _entry(settlement)
        receipt = await broker.enqueue(
            entry.subject, entry.body, idempotency_key=entry.idempotency_key, ordering_key=entry.ordering_key, timeout=4
        )
        self._known([settlement], [receipt.sequence])

    async def _many(self, broker: StreamBroker) -> None:
        some = self._left[: self.world.dice.randint(1, 6)]
        try:
            receipts = await broker.enqueue_many([_entry(each) for each in some], window=3, timeout=6)
        except EnqueueManyError as exc:
            for index, receipt in exc.receipts.items():
                self._known([some[index]], [receipt.sequence])
            raise
        self._known(some, [receipt.sequence for receipt in receipts])

    async def _atomic(self, broker: StreamBroker) -> None:
        """A battle's settlements together; a batch of which something was stored before goes one by one."""
        some = [each for each in self._left if each.key == self._left[0].key]
        try:
            receipts = await broker.enqueue_atomic([_entry(each) for each in some], timeout=4)
        except BrokerError:
            await self._one(broker, self._left[0])
        else:
            self._known(some, [receipt.sequence for receipt in receipts])

    def _known(self, stored: Sequence[Settlement], sequences: Sequence[int]) -> None:
        if self.wire is None or self.wire.dead:
            return
        self.may_crash("receipt")
        if self.wire.dead:  # before it could write down that it knows
            return
        for settlement, sequence in zip(stored, sequences, strict=True):
            self._left.remove(settlement)
            self.world.receipts[settlement] = sequence


class Worker(Process):
    """Consumes and settles, with the bug that was planted, if any."""

    async def _work(self, broker: StreamBroker) -> None:
        assert self.wire is not None, "it lives"
        shape, clerk = self.world.shape, Clerk(self, self.wire)
        handlers: dict[str, Any] = {"inline": clerk.settle_inline, "batches": clerk.settle_batch}
        handler = handlers.get(shape.mode, clerk.settle)
        consumption = await broker.consume([f"{kind}.>" for kind in KINDS], handler, **shape.working)
        await consumption.wait()


class Clerk:
    """The handlers of one life of a worker.

    Args:
        worker: whose.
        wire: its connection: when that is cut, nothing reaches the store either.
    """

    def __init__(self, worker: Worker, wire: Wire) -> None:
        self._worker = worker
        self._world = worker.world
        self._wire = wire

    async def settle(self, msg: StreamMessage) -> None:
        """One at a time, beside others."""
        plant = self._world.plant
        settlement = self._read(msg)
        if plant == "ack-before-commit":
            await msg.ack()
        unknown = not self._world.bank.knows(settlement)
        await self._hook("before_commit")
        if plant != "stale-lane-owner":
            self._commit([(msg, settlement)])
        elif unknown:
            self._commit([(msg, settlement)], trusting=True)
        await self._hook("after_commit")

    def settle_inline(self, msg: StreamMessage) -> None:
        """One after the other."""
        settlement = self._read(msg)
        self._worker.may_crash("before_commit")
        self._commit([(msg, settlement)])
        self._worker.may_crash("after_commit")

    async def settle_batch(self, messages: list[StreamMessage]) -> None:
        """All that can be settled in one transaction."""
        good = []
        for msg in messages:
            try:
                good.append((msg, self._read(msg)))
            except Poisoned:
                await msg.nak()
        await self._hook("before_commit")
        self._commit(good)
        await self._hook("after_commit")

    def _read(self, msg: StreamMessage) -> Settlement:
        settlement = Settlement(*msg.json())
        if msg.attempt <= settlement.fails and not self._world.cured:
            self._wire.note("fail", f"{settlement.subject} {settlement.key} attempt {msg.attempt}")
            raise Poisoned(settlement.key)
        return settlement

    def _commit(self, taken: Sequence[tuple[StreamMessage, Settlement]], *, trusting: bool = False) -> None:
        wire, world = self._wire, self._world
        if wire.dead:
            raise Gone
        fails = wire.happens(world.weather.failing)
        if fails and world.dice.random() < 0.5:
            wire.note("store", "did not commit")
            raise Unavailable
        wanted = [Applied(settlement, msg.sequence, wire.name) for msg, settlement in taken]
        new = world.bank.commit(wanted, trusting=trusting)
        for (msg, settlement), first in zip(taken, new, strict=True):
            wire.note("commit", f"{settlement.subject} {settlement.key} sequence {msg.sequence} new={first}")
        if fails:
            raise Unavailable

    async def _hook(self, where: str) -> None:
        """An await at which the process may be gone, or hang for longer than the ack wait."""
        wire, world = self._wire, self._world
        self._worker.may_crash(where)
        if wire.happens(world.weather.hanging):
            seconds = world.dice.random() * _LONGEST_HANG
            wire.note("hang", f"{seconds:.3f} s {where}")
            if world.dice.random() < 0.5:  # the whole machine does: nobody hears of it meanwhile
                wire.break_off()
                asyncio.get_running_loop().call_later(seconds * world.dice.random(), wire.mend)
            await asyncio.sleep(seconds)
        else:
            await asyncio.sleep(0)


def _entry(settlement: Settlement) -> Entry:
    return Entry(settlement.subject, list(settlement), settlement.key, settlement.room)
