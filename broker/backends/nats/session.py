"""One connection and everybody who must hear of it: status, statistics, the reply inbox and who listens to events."""

from __future__ import annotations

import asyncio
import logging
import secrets
from abc import abstractmethod
from importlib import import_module
from typing import TYPE_CHECKING, Final, Protocol

from broker.backends.nats import addresses
from broker.backends.nats.contract import Link, LinkEvents
from broker.backends.nats.replies import Replies
from broker.backends.nats.wire import WireLink
from broker.contracts.errors import BrokerClosed, BrokerError, ConnectionLost, PermissionDenied, Unauthorized
from broker.contracts.status import Stats, Status, StatusBoard

if TYPE_CHECKING:
    from broker.contracts.options import ConnectOptions

_log: Final = logging.getLogger("broker.nats")


class Listener(Protocol):
    """Somebody with work in flight. Nothing here may raise."""

    @abstractmethod
    def on_lost(self) -> None:
        """The connection broke."""

    @abstractmethod
    def on_restored(self) -> None:
        """The connection is back."""

    @abstractmethod
    def on_ended(self, error: BrokerError) -> None:
        """The connection will not come back."""

    @abstractmethod
    def on_violation(self, error: PermissionDenied) -> None:
        """The server forbids something; it may be ours."""

    @abstractmethod
    def on_complaint(self, text: str) -> None:
        """The server complains of something it does not name."""


class Session(LinkEvents):
    """A connection: opened by ``open``, shared by the core, the appends, the administration and the consumers."""

    def __init__(self, options: ConnectOptions, address: addresses.Address) -> None:
        self.stats = Stats()
        self.board = StatusBoard(lambda: self.link.trouble)
        self._inbox = f"{options.inbox_prefix}.{secrets.token_hex(11)}"
        self._inboxes = 0
        self.link = _new_link(options, address, self, self.stats)
        self.replies = Replies(self.link, self.new_inbox())
        self._listeners: dict[Listener, None] = {self.replies: None}

    @classmethod
    async def open(cls, options: ConnectOptions) -> Session:
        """A connected session.

        Raises:
            ConnectError, Unauthorized, InvalidOption.
        """
        session = cls(options, addresses.parse(options))
        await session.link.connect()
        return session

    def new_inbox(self) -> str:
        """A subject under the inbox prefix that nobody else listens to."""
        self._inboxes += 1
        return f"{self._inbox}.{self._inboxes}"

    def listen(self, listener: Listener) -> None:
        """Tell it about the connection from now on."""
        self._listeners[listener] = None

    def unlisten(self, listener: Listener) -> None:
        """Stop telling it."""
        self._listeners.pop(listener, None)

    @property
    def connected(self) -> bool:
        """Whether there is a connection right now."""
        return self.board.status is Status.CONNECTED

    def ended(self) -> BrokerError | None:
        """Why nothing will be sent any more, when that is so."""
        if self.board.status is Status.UNAUTHORIZED:
            return Unauthorized()
        return BrokerClosed() if self.board.status is Status.CLOSED else None

    async def connected_within(self, timeout: float) -> float:
        """Wait for the connection; returns the seconds that are left.

        Raises:
            ConnectionLost: it did not come back in time.
            BrokerClosed, Unauthorized, Unsupported (another event loop).
        """
        self.board.check_loop()
        if self.board.status is Status.CONNECTED:
            return timeout
        clock = asyncio.get_running_loop().time
        before = clock()
        await self.board.connected(timeout)
        return max(timeout - (clock() - before), 0.001)

    async def confirm(self, timeout: float) -> None:
        """Return when the server has processed everything sent before.

        Raises:
            RequestTimeout, ConnectionLost, BrokerClosed, Unauthorized.
        """
        left = await self.connected_within(timeout)
        try:
            await self.link.ping(left)
        except ConnectionLost:
            error = self.ended()
            if error is not None:
                raise error from None
            raise

    async def close(self) -> None:
        """Release everything in bounded time; idempotent."""
        self.board.set(Status.CLOSED)
        self._end(BrokerClosed())
        await self.link.close()

    def _end(self, error: BrokerError) -> None:
        for listener in tuple(self._listeners):
            listener.on_ended(error)
        self._listeners.clear()

    # -- what the link tells ------------------------------------------------------------------------------------------

    def on_lost(self) -> None:
        """See ``LinkEvents``."""
        self.board.set(Status.RECONNECTING)
        for listener in tuple(self._listeners):
            listener.on_lost()

    def on_restored(self) -> None:
        """See ``LinkEvents``."""
        self.stats.reconnects += 1
        self.board.set(Status.CONNECTED)
        for listener in tuple(self._listeners):
            listener.on_restored()

    def on_refused(self) -> None:
        """See ``LinkEvents``."""
        self.board.set(Status.UNAUTHORIZED)
        self._end(Unauthorized())

    def on_violation(self, verb: str, subject: str, queue: str | None, text: str) -> None:
        """See ``LinkEvents``."""
        self.stats.protocol_errors += 1
        _log.warning("the server says: %s", text)
        error = PermissionDenied(verb=verb, subject=subject, queue=queue)
        for listener in tuple(self._listeners):
            listener.on_violation(error)
        self.board.denials.tell(error)

    def on_complaint(self, text: str) -> None:
        """See ``LinkEvents``."""
        self.stats.protocol_errors += 1
        _log.warning("the server says: %s", text)
        for listener in tuple(self._listeners):
            listener.on_complaint(text)


def _new_link(options: ConnectOptions, address: addresses.Address, events: LinkEvents, stats: Stats) -> Link:
    """Our own wire, or nats-py, which is imported only when it is asked for or alone can go there."""
    if options.link == "nats-py" or (options.link is None and address.web):
        link: Link = import_module("broker.backends.nats.natspy").NatsPyLink(options, address, events, stats)
        return link
    return WireLink(options, address, events, stats)
