"""The link: what this backend needs from a NATS client. Two satisfy it: our own wire, and nats-py."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    Receive = Callable[[bytes, bytes, bytes, "bytes | None"], None]
    """Called with subject, reply (empty when none), data and the header part; returns at once and never raises."""


class LinkEvents(Protocol):
    """What a link tells its owner, always from the event loop. Nothing here may raise."""

    @abstractmethod
    def on_lost(self) -> None:
        """The connection broke; the link is looking for a server. What was in flight is unknown."""

    @abstractmethod
    def on_restored(self) -> None:
        """A connection is there again and subscriptions are active."""

    @abstractmethod
    def on_refused(self) -> None:
        """The server refuses the credentials for good; the link has given up."""

    @abstractmethod
    def on_violation(self, verb: str, subject: str, queue: str | None, text: str) -> None:
        """The server forbids ``publish`` or ``subscribe`` on the subject, in its true case."""

    @abstractmethod
    def on_complaint(self, text: str) -> None:
        """Any other error the server reported."""


class Link(Protocol):
    """One logical connection that finds its way back by itself."""

    max_payload: int
    """Bytes of headers and body the server takes, as it said last."""
    clustered: bool
    """Whether the server is one of several, so that its streams may be silent while they elect a leader."""
    jetstream: bool
    """Whether the server says that it has streams itself; one of the others may have them."""
    server_id: str
    """Of the server of this moment, or of the last one; no two have the same, and a restart gives another."""
    closed: bool
    """Whether it was closed or gave up: nothing will be sent any more."""
    send: Callable[[bytes], None]
    """Take a core frame: kept while disconnected, bounded, oldest dropped first."""
    send_stream: Callable[[bytes], bool]
    """Take a frame whose caller waits for the outcome; ``False`` when there is no connection."""

    @abstractmethod
    async def connect(self) -> None:
        """Connect for the first time.

        Raises:
            Unauthorized: a server refused the credentials.
            ConnectError: no server could be used in time.
        """

    @property
    @abstractmethod
    def congested(self) -> bool:
        """Whether the outbound buffer is above its high-water mark."""

    @property
    @abstractmethod
    def trouble(self) -> str:
        """The servers tried since the connection broke, each with what it came to; nothing in it is a secret."""

    @abstractmethod
    async def writable(self) -> None:
        """Wait until it is below."""

    @abstractmethod
    def subscribe(self, pattern: bytes, queue: str | None, receive: Receive) -> int:
        """Ask for messages; sent in order with the frames, kept over reconnects. Returns the subscription's number."""

    @abstractmethod
    def unsubscribe(self, sid: int) -> None:
        """Tell the server to stop; what is on its way still arrives until ``forget``."""

    @abstractmethod
    def forget(self, sid: int) -> None:
        """Nothing is received, or asked for after a reconnect, any more."""

    @abstractmethod
    async def ping(self, timeout: float) -> None:
        """Return when the server has processed every frame sent before.

        Raises:
            RequestTimeout: it did not in time.
            ConnectionLost: the connection broke meanwhile.
        """

    @abstractmethod
    async def force_reconnect(self) -> None:
        """Leave this server for another one of the pool, or for itself when there is no other."""

    @abstractmethod
    async def close(self) -> None:
        """Let go of everything in bounded time. Idempotent."""
