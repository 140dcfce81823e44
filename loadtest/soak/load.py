"""The traffic: a room that publishes, asks and enqueues, and a worker that listens, answers and consumes."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from broker import (
    ConnectionLost,
    EnqueueUnknown,
    NoResponders,
    RequestTimeout,
    StreamBroker,
    StreamOptions,
)
from loadtest.soak.ledger import Frames, Settlements

if TYPE_CHECKING:
    from types import TracebackType

    from broker import Message, StreamMessage
    from broker.contracts.options import LinkChoice

TICKS: Final = 30
"""Game ticks per second."""
ROOMS: Final = 20
BODY: Final = 128
ACK_WAIT: Final = 5.0
"""Seconds after which a stored message whose worker was cut off is handed out again."""
OUTBOUND_LIMIT: Final = 256 << 10
"""Small, so that a frozen server makes it drop, which must be counted."""
_STREAM: Final = "SOAK"
_ASKING: Final = 8
_STORING: Final = 64
_SHARE: Final = {"requests": 0.03, "enqueues": 0.10}
_TIMEOUT: Final = 2.0
_STORE_TIMEOUT: Final = 30.0
_SPARE: Final = 2.0
"""Room in the ledgers for ticks that were late."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Messages per second."""

    publishes: float
    requests: float
    enqueues: float

    @classmethod
    def of(cls, total: float) -> Self:
        """The mix: nine core messages to a stored one; three in a hundred are requests."""
        requests, enqueues = total * _SHARE["requests"], total * _SHARE["enqueues"]
        return cls(total - requests - enqueues, requests, enqueues)


class Load:
    """Both brokers and everything they do; an async context manager that ends with both closed.

    Attributes:
        asked: what became of the requests, by outcome.
        errors: what should not have happened, by kind.
    """

    def __init__(self, url: str, rates: Rates, duration: float, link: LinkChoice | None) -> None:
        self._url = url
        self._rates = rates
        self._duration = duration
        self._link = link
        self._stack = AsyncExitStack()
        self._began = 0.0
        self._asked = 0
        self.asked: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self.room = await self._connected(stack)
            self.worker = await self._connected(stack)
            size = int(self._rates.publishes * (self._duration + _SPARE)) + ROOMS
            self.frames = Frames(size, ROOMS, BODY, self.room, self.worker)
            self.settlements = Settlements(int(self._rates.enqueues * (self._duration + _SPARE)) + _STORING)
            await self.room.declare(StreamOptions(_STREAM, ["settle.>"]))
            await self._listen()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _connected(self, stack: AsyncExitStack) -> StreamBroker:
        options = {"link": self._link, "outbound_limit": OUTBOUND_LIMIT}
        return await stack.enter_async_context(StreamBroker.connect(self._url, **options))  # type: ignore[arg-type]  # a dict of options has no types of its own

    async def _listen(self) -> None:
        """Half of the rooms to a plain function, half to an async one."""

        def plain(msg: Message) -> None:
            self.frames.note(msg.data)

        async def waiting(msg: Message) -> None:
            self.frames.note(msg.data)

        async def answer(msg: Message) -> bytes:
            await asyncio.sleep(0)
            return msg.data

        async def settle(msg: StreamMessage) -> None:
            await asyncio.sleep(0)
            self.settlements.handled.mark(int(msg.data))

        await self.worker.subscribe("battle.even.*.state", plain)
        await self.worker.subscribe("battle.odd.*.state", waiting)
        await self.worker.respond("room.join", answer, queue="rooms")
        await self.worker.consume("settle.>", settle, durable="settle", ack_wait=ACK_WAIT)

    # -- the room

    @property
    def sent(self) -> int:
        """Messages so far: published, asked, stored."""
        return self.frames.sent + self._asked + self.settlements.begun

    async def run(self) -> None:
        """Send for the time given. What is under way then is seen through."""
        self._began = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._publish(), name="publish")
            for _ in range(_ASKING):
                group.create_task(self._ask(), name="ask")
            for _ in range(_STORING):
                group.create_task(self._store(), name="store")

    async def settled(self, within: float) -> bool:
        """Whether every stored message was handled, waiting ``within`` seconds at most; and the core is quiet."""
        try:
            async with asyncio.timeout(within):
                await self.room.flush(timeout=within)
                await self.worker.flush(timeout=within)
                while self.settlements.missing:  # noqa: ASYNC110 - the ledger is bytes, not an event
                    await asyncio.sleep(0.1)
        except TimeoutError:
            return False
        return True

    async def held(self) -> int:
        """Messages in the stream: as many as keys, when each was stored once."""
        return (await self.room.streams.info(_STREAM)).messages

    @property
    def _elapsed(self) -> float:
        return min(asyncio.get_running_loop().time() - self._began, self._duration)

    @property
    def _over(self) -> bool:
        return asyncio.get_running_loop().time() - self._began >= self._duration

    async def _publish(self) -> None:
        """A game loop: it never waits for anything but its tick."""
        tick = 0
        while not self._over:
            due = min(round(self._elapsed * self._rates.publishes), len(self.frames.arrived))
            while self.frames.sent < due:
                room, body = self.frames.next()
                parity = "odd" if room % 2 else "even"
                self.room.publish_nowait(f"battle.{parity}.{room}.state", body)
            tick += 1
            await asyncio.sleep(max(0.0, self._began + tick / TICKS - asyncio.get_running_loop().time()))

    async def _ask(self) -> None:
        """Requests at their rate; those that an outage kept from being sent are not made up for."""
        pause = _ASKING / self._rates.requests
        while not self._over:
            self._asked += 1
            try:
                reply = await self.room.request("room.join", b"me", timeout=_TIMEOUT)
            except (RequestTimeout, ConnectionLost, NoResponders) as exc:
                self.asked[type(exc).__name__] += 1
            except Exception as exc:  # noqa: BLE001 - whatever it is, the verdict says so
                self.errors[f"request: {type(exc).__name__}: {exc}"] += 1
            else:
                self.asked["answered"] += 1
                if reply.data != b"me":
                    self.errors["request: somebody else's reply"] += 1
            await asyncio.sleep(pause)

    async def _store(self) -> None:
        """Settlements at their rate; what an outage held up is made up for."""
        settlements = self.settlements
        while not self._over:
            if settlements.begun >= self._elapsed * self._rates.enqueues:
                await asyncio.sleep(1 / TICKS)
                continue
            number = settlements.begun
            settlements.begun += 1
            await self._see_through(number)

    async def _see_through(self, number: int) -> None:
        while True:
            try:
                await self.room.enqueue(
                    "settle.battle", b"%d" % number, idempotency_key=f"battle-{number}", timeout=_STORE_TIMEOUT
                )
            except EnqueueUnknown:
                self.settlements.unknown += 1
            except Exception as exc:  # noqa: BLE001 - whatever it is, the verdict says so
                self.errors[f"enqueue: {type(exc).__name__}: {exc}"] += 1
                return
            else:
                self.settlements.stored.mark(number)
                return
