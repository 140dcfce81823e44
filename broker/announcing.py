"""Telling whoever listens what happens to a consumer; nobody who listens slowly holds up the work."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final, Self
from weakref import WeakSet

from broker.contracts.events import ConsumerEvent, ConsumerEventKind
from broker.contracts.status import Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.contracts.backend import StreamBackend
    from broker.contracts.status import Stats

KEPT: Final = 256
"""Unread events of one listener at most; the oldest are dropped and counted."""
_OF_STATUS: Final = {
    Status.RECONNECTING: ConsumerEventKind.DISCONNECTED,
    Status.CONNECTED: ConsumerEventKind.RECONNECTED,
}


class Events:
    """What happens from now on, oldest first: an async iterator that ends with the consumption or puller.

    Attributes:
        dropped: events this listener did not read in time: beyond 256 unread ones the oldest go.
    """

    def __init__(self, stats: Stats, *, ended: bool) -> None:
        self.dropped = 0
        self._stats = stats
        self._unread: deque[ConsumerEvent] = deque()
        self._news = asyncio.Event()
        self._ended = ended

    def add(self, event: ConsumerEvent) -> None:
        """Keep it until it is read."""
        if len(self._unread) >= KEPT:
            self._unread.popleft()
            self.dropped += 1
            self._stats.dropped_events += 1
        self._unread.append(event)
        self._news.set()

    def end(self) -> None:
        """Nothing more will come."""
        self._ended = True
        self._news.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ConsumerEvent:
        while not self._unread:
            if self._ended:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        return self._unread.popleft()


class Announcer:
    """Tells the listeners of one consumption or puller, and through ``onward`` those of the whole it is a part of.

    What happens to the connection, each tells its own listeners.
    """

    def __init__(self, backend: StreamBackend, onward: Announcer | None = None) -> None:
        self._backend = backend
        self._onward = onward
        self._listeners: WeakSet[Events] = WeakSet()
        self._unwatch: Callable[[], None] | None = None
        self._ended = False
        self._stream = self._consumer = ""

    def begin(self, stream: str, consumer: str) -> None:
        """It is about this consumer; from now on the connection's fate is told as well."""
        self._stream, self._consumer = stream, consumer
        if self._unwatch is None and not self._ended:
            self._unwatch = self._backend.board.watch(self._on_status)

    def listen(self) -> Events:
        """Everything from now on."""
        events = Events(self._backend.stats, ended=self._ended)
        if not self._ended:
            self._listeners.add(events)
        return events

    def tell(self, kind: ConsumerEventKind, detail: str = "") -> None:
        """It happened."""
        event = ConsumerEvent(kind, self._stream, self._consumer, detail)
        self.hand_on(event)
        if self._onward is not None:
            self._onward.hand_on(event)

    def end(self) -> None:
        """Nothing more will happen. Idempotent."""
        self._ended = True
        if self._unwatch is not None:
            self._unwatch()
            self._unwatch = None
        for events in tuple(self._listeners):
            events.end()
        self._listeners.clear()

    def _on_status(self, status: Status) -> None:
        kind = _OF_STATUS.get(status)
        if kind is not None:
            self.hand_on(ConsumerEvent(kind, self._stream, self._consumer))

    def hand_on(self, event: ConsumerEvent) -> None:
        """Its own listeners are told, nobody else."""
        for events in tuple(self._listeners):
            events.add(event)
