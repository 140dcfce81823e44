"""What a connection is doing and what it has counted: shared by the backend that knows and the facade that shows."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from broker.contracts.errors import BrokerClosed, ConnectionLost, Unauthorized, Unsupported

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from broker.contracts.errors import PermissionDenied

T = TypeVar("T")

_log: Final = logging.getLogger("broker")
_KEPT_CHANGES: Final = 64
"""A watcher that sleeps keeps the newest so many changes; older ones are history."""


class Status(StrEnum):
    """The state of a broker's connection."""

    CONNECTED = "connected"
    RECONNECTING = "reconnecting"
    DRAINING = "draining"
    CLOSED = "closed"
    UNAUTHORIZED = "unauthorized"


_FINAL: Final = frozenset({Status.CLOSED, Status.UNAUTHORIZED})


@dataclass(slots=True)
class Stats:
    """Counters since connect. They only grow; read them as often as you like.

    Attributes:
        published: core messages accepted for sending, replies included, requests not.
        dropped_outbound: core messages dropped unsent because the outbound buffer was full (oldest first) or was
            thrown away at close.
        received: core messages handed to this process.
        dropped_inbound: core messages dropped because a subscription's backlog was at its limit.
        superseded: core messages replaced by a newer one on the same subject (``overflow="latest"``).
        reconnects: times the connection came back after a loss.
        requests: requests sent.
        request_timeouts: requests that got no answer in time.
        enqueued: messages stored.
        duplicates: of those, repeats the server dropped.
        enqueue_retries: attempts beyond the first.
        delivered: stream messages handed to a handler or a puller.
        redelivered: of those, with an attempt above 1.
        acked: settled as done.
        naked: given back for another attempt.
        rescheduled: of those, put into a schedule meanwhile (``reschedule_after``).
        terminated: settled as never to be tried again.
        dead_lettered: written to the dead letters.
        extended: times a message's ack wait was prolonged.
        handler_errors: handlers (core or stream) that raised.
        dropped_events: events of consumptions and pullers dropped because a listener did not read them.
        protocol_errors: errors the server reported outside any call.
    """

    published: int = 0
    dropped_outbound: int = 0
    received: int = 0
    dropped_inbound: int = 0
    superseded: int = 0
    reconnects: int = 0
    requests: int = 0
    request_timeouts: int = 0
    enqueued: int = 0
    duplicates: int = 0
    enqueue_retries: int = 0
    delivered: int = 0
    redelivered: int = 0
    acked: int = 0
    naked: int = 0
    rescheduled: int = 0
    terminated: int = 0
    dead_lettered: int = 0
    extended: int = 0
    handler_errors: int = 0
    dropped_events: int = 0
    protocol_errors: int = 0

    def as_dict(self) -> dict[str, int]:
        """Every counter by name, as it stands now."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


class Watchers(Generic[T]):
    """Who wants to be told of one kind of thing."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._callbacks: list[Callable[[T], None]] = []

    def watch(self, callback: Callable[[T], None]) -> Callable[[], None]:
        """Call back each time, from the event loop; returns how to stop.

        The callback returns at once. What it raises is logged and keeps nobody else from hearing.
        """
        self._callbacks.append(callback)

        def stop() -> None:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

        return stop

    def tell(self, what: T) -> None:
        """Tell them all."""
        for callback in tuple(self._callbacks):
            try:
                callback(what)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException:  # noqa: BLE001 - the others, and the connection, go on; logged
                _log.exception("telling of %s %s failed", self._kind, what)


class StatusBoard:
    """One connection's status: set by the backend, read and awaited by everyone else.

    Attributes:
        denials: what the server forbids, as it says so; for whoever sent something that has no answer of its own.

    Args:
        trouble: why there is no connection right now, in words that show no secret; empty when nobody knows.
    """

    def __init__(self, trouble: Callable[[], str] = str) -> None:
        self._status = Status.CONNECTED
        self._watchers: Watchers[Status] = Watchers("status")
        self.denials: Watchers[PermissionDenied] = Watchers("denial")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._trouble = trouble

    @property
    def status(self) -> Status:
        """The status now."""
        return self._status

    def set(self, status: Status) -> None:
        """Announce a change. A final status stays; a repeat is not a change."""
        if status is self._status or self._status in _FINAL:
            return
        self._status = status
        self.announce(status)

    def announce(self, status: Status) -> None:
        """Tell watchers something that is not the connection's own state: that its broker is draining."""
        self._watchers.tell(status)

    def watch(self, callback: Callable[[Status], None]) -> Callable[[], None]:
        """Call back on every change; see ``Watchers``."""
        return self._watchers.watch(callback)

    async def changes(self) -> AsyncIterator[Status]:
        """The status now, then every change; ends after a final one. Keeps at most the newest 64 unread."""
        seen: deque[Status] = deque([self._status], maxlen=_KEPT_CHANGES)
        wake = asyncio.Event()
        wake.set()

        def note(status: Status) -> None:
            seen.append(status)
            wake.set()

        stop = self.watch(note)
        try:
            while True:
                await wake.wait()
                wake.clear()
                while seen:
                    status = seen.popleft()
                    yield status
                    if status in _FINAL:
                        return
        finally:
            stop()

    def live_in(self, loop: asyncio.AbstractEventLoop) -> None:
        """Say which event loop the connection is used in."""
        self._loop = loop

    def check_loop(self) -> None:
        """Refuse another loop: the connection lives in one, and a future awaited in another never comes.

        Raises:
            Unsupported: this is not the loop it lives in, or a thread without one.
        """
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if self._loop is not None and running is not self._loop:
            raise Unsupported("this broker was connected in another event loop; connect one in the loop that uses it")

    def check_open(self) -> None:
        """Refuse work on a connection that will not come back.

        Raises:
            BrokerClosed, Unauthorized.
        """
        if self._status is Status.UNAUTHORIZED:
            raise Unauthorized
        if self._status is Status.CLOSED:
            raise BrokerClosed

    async def connected(self, timeout: float) -> None:
        """Wait until the connection is there.

        Raises:
            ConnectionLost: still not after ``timeout`` seconds; it names the servers that were tried, and why none did.
            BrokerClosed, Unauthorized: it never will be.
        """
        if self._status is Status.CONNECTED:
            return
        self.check_open()
        changed = asyncio.Event()
        stop = self.watch(lambda _: changed.set())
        try:
            async with asyncio.timeout(timeout):
                while self._status is Status.RECONNECTING:
                    changed.clear()
                    await changed.wait()
        except TimeoutError as exc:
            why = self._trouble()
            told = f"still not connected after {timeout:.3g} s{f': {why}' if why else ''}"
            raise ConnectionLost(told) from exc
        finally:
            stop()
        if self._status in _FINAL:
            self.check_open()
