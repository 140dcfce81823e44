"""One process's connection to the hub: everything it asks may be lost, late, twice, or answered to nobody."""

from __future__ import annotations

import asyncio
import inspect
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar

from broker.backends.memory import MemoryBackend
from broker.contracts.errors import ApiError, BrokerClosed, ConnectionLost, RequestTimeout
from broker.contracts.status import Status, StatusBoard
from loadtest.sim.arriving import WireSource

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from random import Random

    from broker.backends.memory import MemoryHub
    from broker.contracts.backend import Deliver, DeliverySource, Interest
    from broker.contracts.envelopes import Envelope, Receipt, Record
    from broker.contracts.headers import Headers
    from loadtest.sim.weather import Weather

T = TypeVar("T")

_UNANSWERED: Final = 3.0
"""Seconds after which a call without an answer is given up, when nothing shorter was said."""
_STEP: Final = 1e-6
"""Seconds between two frames of one connection: they arrive in the order in which they were sent."""


class Wire:
    """A backend to the facades, and a network that is not to be relied on.

    Once ``cut`` it is what a dead process sees: nothing it does has any effect, and everything raises at once.

    Args:
        hub: the server.
        name: whose connection it is, for the trace.
        weather: what goes wrong.
        dice: decides when.
        note: told what happened.
    """

    around = None
    exhausted = None

    def __init__(
        self, hub: MemoryHub, name: str, weather: Weather, dice: Random, note: Callable[[str, str], None]
    ) -> None:
        self.board = StatusBoard()
        self.name = name
        self.weather = weather
        self.dice = dice
        self.dead = False
        self.on_call: Callable[[], None] = lambda: None
        self._inner = MemoryBackend(hub)
        self.capabilities, self.stats = self._inner.capabilities, self._inner.stats
        self._note = note
        self._loop = asyncio.get_running_loop()
        self._arrives = 0.0
        self._back = asyncio.Event()
        self._back.set()
        self._losses: set[asyncio.Future[Any]] = set()

    def __getattr__(self, name: str) -> Any:
        """Whatever else the seam has is a call to the server and an answer."""
        verb = getattr(self._inner, name)
        if inspect.iscoroutinefunction(verb):
            return lambda *given, **options: self.call(name, lambda: verb(*given, **options))
        if inspect.isasyncgenfunction(verb):
            return lambda *given, **options: self._run(name, lambda: verb(*given, **options))
        return verb

    # -- its own life

    def cut(self) -> None:
        """The process is gone: whatever it still does reaches nobody."""
        self.dead = True
        self.board.set(Status.CLOSED)
        self._back.set()

    async def bury(self) -> None:
        """The server notices."""
        await self._inner.close()

    def break_off(self) -> None:
        """The connection breaks; whoever waits for an answer is told at once."""
        if not self.dead and self._back.is_set():
            self.note("break", "")
            self._back.clear()
            self.board.set(Status.RECONNECTING)
            for each in tuple(self._losses):
                if not each.done():
                    each.set_exception(ConnectionLost("the connection broke"))

    def mend(self) -> None:
        """The connection is back."""
        if not self.dead and not self._back.is_set():
            self.note("mend", "")
            self._back.set()
            self.board.set(Status.CONNECTED)

    @property
    def broken(self) -> bool:
        """Whether it is not connected now."""
        return not self._back.is_set()

    async def connected(self) -> None:
        """Wait until it is connected."""
        await self._back.wait()
        self.check()

    def note(self, what: str, more: str) -> None:
        """One line of the trace."""
        self._note(self.name, f"{what} {more}")

    def happens(self, chance: float) -> bool:
        """Whether it does, this time."""
        return chance > 0 and self.dice.random() < chance

    def check(self) -> None:
        """Raises what a dead process's connection raises."""
        if self.dead:
            raise BrokerClosed

    # -- calls that have an answer

    async def call(self, name: str, work: Callable[[], Awaitable[T]], timeout: float = _UNANSWERED) -> T:
        """One round trip."""
        weather = self.weather
        self.on_call()
        self.check()
        if self.broken:
            raise ConnectionLost("not connected")
        if self.happens(weather.refused):
            self.note(name, "refused")
            raise ApiError("no leader right now", code=503, err_code=10008, transient=True)
        if self.happens(weather.lost_request):
            self.note(name, "request lost")
            await self._unanswered(name, timeout)
        await self.dawdle()
        self.check()
        result = await work()
        if self.happens(weather.lost_answer):
            self.note(name, "answer lost")
            await self._unanswered(name, timeout)
        await self.dawdle()
        self.check()
        if self.broken:
            raise ConnectionLost("the connection broke")
        return result

    async def dawdle(self) -> None:
        """Take a while, if this is one of those."""
        if self.happens(self.weather.slow):
            await asyncio.sleep(self.dice.random() * self.weather.longest)

    async def _unanswered(self, name: str, timeout: float) -> None:
        if self.dice.random() < 0.5:
            await asyncio.sleep(self.dice.random() * timeout)
            self.check()
            raise ConnectionLost(f"{name}: the connection broke")
        await asyncio.sleep(timeout)
        self.check()
        raise RequestTimeout(f"{name}: no answer within {timeout:g} s")

    async def _run(self, name: str, work: Callable[[], AsyncIterator[T]]) -> AsyncIterator[T]:
        async def collect() -> list[T]:
            return [each async for each in work()]

        for each in await self.call(name, collect):
            yield each

    async def flush(self, *, timeout: float) -> None:
        """See ``CoreBackend``."""
        await self.call("flush", lambda: self._inner.flush(timeout=timeout), timeout)

    async def close(self) -> None:
        """See ``CoreBackend``. A dead process closes nothing: the server notices in its own time."""
        if not self.dead:
            self.cut()
            await self._inner.close()

    # -- storing: frames that arrive in their order

    def append(self, record: Record, *, timeout: float) -> asyncio.Future[Receipt]:
        """See ``StreamBackend``."""
        self.on_call()
        self.check()
        answer: asyncio.Future[Receipt] = self._loop.create_future()
        answer.add_done_callback(_heed)
        self._losses.add(answer)
        answer.add_done_callback(self._losses.discard)
        timer = self._loop.call_later(timeout, self._too_late, record, answer)
        answer.add_done_callback(lambda _: timer.cancel())
        if self.broken:
            answer.set_exception(ConnectionLost("not connected"))
        elif self.happens(self.weather.refused):
            refusal = ApiError("no leader right now", code=503, err_code=10008, transient=True)
            self._loop.call_soon(_fail, answer, refusal)
        elif self.happens(self.weather.lost_request):
            self.note("append", f"{record.message_id[:8]} lost")
        else:
            self._in_order(lambda: self._store(record, timeout, answer))
        return answer

    def _in_order(self, deed: Callable[[], None]) -> None:
        """Now, or a moment later, but after everything that was sent before."""
        delay = self.dice.random() * self.weather.longest if self.happens(self.weather.slow) else 0.0
        now = self._loop.time()
        if not delay and self._arrives <= now:
            deed()
            return
        self._arrives = max(self._arrives + _STEP, now + delay)
        self._loop.call_at(self._arrives, deed)

    def _store(self, record: Record, timeout: float, answer: asyncio.Future[Receipt]) -> None:
        try:
            receipt = self._inner.append(record, timeout=timeout)
        except BrokerClosed:  # the server has noticed that the process is gone
            return
        receipt.add_done_callback(lambda done: self._stored(record, done, answer))

    def _stored(self, record: Record, receipt: asyncio.Future[Receipt], answer: asyncio.Future[Receipt]) -> None:
        error = receipt.exception()
        if error is None:
            told = receipt.result()
            self.note("stored", f"{record.subject} {told.stream}:{told.sequence} duplicate={told.duplicate}")
        if self.dead or self.happens(self.weather.lost_answer):
            self.note("append", f"{record.message_id[:8]} answer lost")
        elif self.happens(self.weather.slow):
            delay = self.dice.random() * self.weather.longest
            self._loop.call_later(delay, _copy, receipt, answer)
        else:
            _copy(receipt, answer)

    def _too_late(self, record: Record, answer: asyncio.Future[Receipt]) -> None:
        _fail(answer, BrokerClosed() if self.dead else RequestTimeout("no receipt in time", subject=record.subject))

    # -- the core tier

    def publish(self, subject: str, data: bytes, headers: Headers | None, reply_to: str | None = None) -> None:
        """See ``CoreBackend``."""
        self.check()
        if self.broken or self.happens(self.weather.lost_core):
            return
        self._in_order(lambda: self._publish(subject, data, headers, reply_to))

    def _publish(self, *parcel: Any) -> None:
        with suppress(BrokerClosed):
            self._inner.publish(*parcel)

    async def subscribe(self, subject: str, deliver: Deliver, *, queue: str | None) -> Interest:
        """See ``CoreBackend``."""

        def arrive(envelope: Envelope) -> None:
            if not self.dead and not self.broken and not self.happens(self.weather.lost_core):
                deliver(envelope)

        return await self.call("subscribe", lambda: self._inner.subscribe(subject, arrive, queue=queue))

    # -- consuming

    async def open_consumer(self, options: Any) -> DeliverySource:
        """See ``StreamBackend``."""
        source = await self.call("open", lambda: self._inner.open_consumer(options))
        return WireSource(self, source)


def _heed(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()


def _fail(answer: asyncio.Future[Any], error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)


def _copy(receipt: asyncio.Future[Receipt], answer: asyncio.Future[Receipt]) -> None:
    if answer.done():
        return
    error = receipt.exception()
    if error is not None:
        answer.set_exception(error)
    else:
        answer.set_result(receipt.result())
