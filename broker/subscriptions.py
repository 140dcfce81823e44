"""One core subscription: a bounded backlog, a visible overflow policy, and the order kept.

Whatever arrives is put here at once, so the connection is read continuously and a slow handler delays only itself.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any, Protocol

from broker.contracts.options import Overflow, in_range, one_of
from broker.contracts.status import Status
from broker.handling import EXITS, STOPS, HandlerTask, call, is_async, refuse_coroutine, report, run
from broker.messages import Message
from broker.slots import ended, finish

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from broker.contracts.backend import Around, CoreBackend, Interest
    from broker.contracts.codec import Codec
    from broker.contracts.envelopes import Envelope
    from broker.contracts.status import Stats


class Backlog(Protocol):
    """Messages that arrived and were not handled yet; never more than the limit."""

    def put(self, envelope: Envelope) -> None:
        """Take one, dropping as the policy says."""

    def pop(self) -> Envelope:
        """The next one to handle; only when there is one."""

    def clear(self) -> None:
        """Forget them all."""

    def __len__(self) -> int: ...


class QueueBacklog:
    """Keeps the order; when full it drops the oldest, or refuses the newest."""

    def __init__(self, limit: int, stats: Stats, *, keep_newest: bool) -> None:
        self._queue: deque[Envelope] = deque()
        self._limit = limit
        self._stats = stats
        self._keep_newest = keep_newest
        self.dropped = 0

    def put(self, envelope: Envelope) -> None:
        """See ``Backlog``."""
        if len(self._queue) >= self._limit:
            self.dropped += 1
            self._stats.dropped_inbound += 1
            if not self._keep_newest:
                return
            self._queue.popleft()
        self._queue.append(envelope)

    def pop(self) -> Envelope:
        """See ``Backlog``."""
        return self._queue.popleft()

    def clear(self) -> None:
        """See ``Backlog``."""
        self._queue.clear()

    def __len__(self) -> int:
        return len(self._queue)


class LatestBacklog:
    """Keeps the newest message of each subject; an older unread one is superseded, which is not a loss."""

    def __init__(self, limit: int, stats: Stats) -> None:
        self._newest: OrderedDict[str, Envelope] = OrderedDict()
        self._limit = limit
        self._stats = stats
        self.dropped = 0

    def put(self, envelope: Envelope) -> None:
        """See ``Backlog``. The subject keeps its place in the line, so that none starves."""
        if envelope.subject in self._newest:
            self._stats.superseded += 1
        elif len(self._newest) >= self._limit:
            self.dropped += 1
            self._stats.dropped_inbound += 1
            self._newest.popitem(last=False)
        self._newest[envelope.subject] = envelope

    def pop(self) -> Envelope:
        """See ``Backlog``."""
        return self._newest.popitem(last=False)[1]

    def clear(self) -> None:
        """See ``Backlog``."""
        self._newest.clear()

    def __len__(self) -> int:
        return len(self._newest)


def make_backlog(overflow: Overflow, limit: int, stats: Stats) -> QueueBacklog | LatestBacklog:
    """The backlog for a policy.

    Raises:
        InvalidOption: no such policy, or a limit below 1.
    """
    one_of("overflow", overflow, ("drop_oldest", "latest", "drop_newest"))
    in_range("pending_limit", limit, 1, whole=True)
    if overflow == "latest":
        return LatestBacklog(limit, stats)
    return QueueBacklog(limit, stats, keep_newest=overflow == "drop_oldest")


def _nothing() -> None:
    """Nothing to stop yet."""


class Subscription:
    """A live subscription: handled by a handler, or read with ``async for`` when there is none.

    Attributes:
        subject: the pattern.
        queue: the queue group, if any.
    """

    def __init__(
        self,
        subject: str,
        handler: Callable[[Message], Any] | None,
        *,
        queue: str | None,
        backlog: QueueBacklog | LatestBacklog,
        codec: Codec,
        backend: CoreBackend,
        wrap: Around | None,
        forget: Callable[[Subscription], None],
    ) -> None:
        self.subject = subject
        self.queue = queue
        self._handler = handler
        self._backlog = backlog
        self._codec = codec
        self._backend = backend
        self._wrap = wrap
        self._forget = forget
        self._interest: Interest | None = None
        self._arrived = asyncio.Event()
        self._ended = False
        self._pump: asyncio.Task[None] | None = None
        self._askers: set[asyncio.Task[Any] | None] = set()
        self._pump_due = False
        self._unwatch: Callable[[], None] = _nothing
        self._inline = handler is not None and not is_async(handler)
        self._loop = asyncio.get_running_loop()

    @property
    def pending(self) -> int:
        """Messages that arrived and were not handled yet."""
        return len(self._backlog)

    @property
    def ended(self) -> bool:
        """Whether it was unsubscribed, drained or closed with its broker."""
        return self._ended

    @property
    def dropped(self) -> int:
        """Messages this subscription dropped because its backlog was at its limit."""
        return self._backlog.dropped

    async def start(self) -> Self:
        """Become active on the server."""
        deliver = self._deliver_inline if self._inline and isinstance(self._backlog, QueueBacklog) else self._deliver
        self._unwatch = self._backend.board.watch(self._on_status)
        try:
            self._interest = await self._backend.subscribe(self.subject, deliver, queue=self.queue)
        except BaseException:
            self._unwatch()
            raise
        if self._handler is not None and not self._inline:
            self._pump = HandlerTask(self._handle_forever(), loop=self._loop, name=f"subscription {self.subject}")
        return self

    async def unsubscribe(self, *, caller: asyncio.Task[Any] | None = None) -> None:
        """Stop now; what was not handled yet is forgotten. Idempotent.

        ``caller`` is a handler that waits for this, so it is not waited for.
        """
        self._backend.board.check_loop()
        await self._stop_interest()
        self._backlog.clear()
        self._end()
        try:
            await self._stop_pump(caller, cancel=True)
        finally:
            self._forget(self)

    async def drain(self, *, caller: asyncio.Task[Any] | None = None) -> None:
        """Stop receiving, handle what has arrived, then end. Idempotent.

        ``caller`` is a handler that waits for this, so it is not waited for.
        """
        self._backend.board.check_loop()
        await self._stop_interest()
        self._end()
        if self._pump is None:
            self._forget(self)
        else:
            # Until then a broker that closes has to end it, also when the one who drains was cancelled.
            self._pump.add_done_callback(lambda _: self._forget(self))
            await self._stop_pump(caller, cancel=False)

    def _deliver_inline(self, envelope: Envelope) -> None:
        self._backend.stats.received += 1
        self._call_inline(envelope)

    def _deliver(self, envelope: Envelope) -> None:
        self._backend.stats.received += 1
        self._backlog.put(envelope)
        if self._inline:
            # Handled after everything that arrived in the same read, so that only the newest of each subject is.
            if not self._pump_due:
                self._pump_due = True
                self._loop.call_soon(self._drain_inline)
        elif not self._arrived.is_set():
            self._arrived.set()

    def _drain_inline(self) -> None:
        self._pump_due = False
        while len(self._backlog):
            self._call_inline(self._backlog.pop())

    def _call_inline(self, envelope: Envelope) -> None:
        handler = self._handler
        assert handler is not None
        try:
            if (result := call(handler, Message(envelope, self._codec, self._backend), self._wrap)) is not None:
                refuse_coroutine(result)
        except EXITS:
            raise
        except BaseException as exc:  # noqa: BLE001 - a handler's error ends that message only
            self._failed(envelope, exc)

    async def _handle_forever(self) -> None:
        handler = self._handler
        assert handler is not None
        while await self._wait():
            envelope = self._backlog.pop()
            try:
                await run(handler, Message(envelope, self._codec, self._backend), self._wrap)
            except STOPS:
                raise
            except BaseException as exc:  # noqa: BLE001 - a handler's error ends that message only
                self._failed(envelope, exc)

    def _failed(self, envelope: Envelope, error: BaseException) -> None:
        report(self._backend.stats, f"{envelope.subject!r} (subscription {self.subject!r})", error)

    async def _wait(self) -> bool:
        """Until there is a message (true) or there will be none (false)."""
        while not len(self._backlog):
            if self._ended:
                return False
            self._arrived.clear()
            await self._arrived.wait()
        return True

    def _on_status(self, status: Status) -> None:
        if status in {Status.CLOSED, Status.UNAUTHORIZED}:
            self._end()

    def _end(self) -> None:
        self._ended = True
        self._unwatch()
        self._arrived.set()

    async def _stop_interest(self) -> None:
        interest, self._interest = self._interest, None
        if interest is not None:
            await interest.stop()

    async def _stop_pump(self, caller: asyncio.Task[Any] | None, *, cancel: bool) -> None:
        pump = self._pump
        if pump is not None and pump is not asyncio.current_task():
            self._askers.add(caller)
            await (finish({pump}, 0, self._askers) if cancel else ended({pump}, None, self._askers))

    def __aiter__(self) -> Self:
        if self._handler is not None:
            raise TypeError("this subscription has a handler; only one without can be iterated")
        return self

    async def __anext__(self) -> Message:
        self._backend.board.check_loop()
        if await self._wait():
            return Message(self._backlog.pop(), self._codec, self._backend)
        raise StopAsyncIteration

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.unsubscribe()

    def __repr__(self) -> str:
        return f"Subscription({self.subject!r}, queue={self.queue!r}, pending={self.pending}, dropped={self.dropped})"
