"""One socket to one server: the conversation on an ``asyncio.Protocol``, and its pulse."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Final, Protocol

from broker.backends.nats import complaints
from broker.backends.nats.parser import ProtocolViolation
from broker.backends.nats.wire.protocol import Conversation, Hearer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from broker.backends.nats.contract import Receive
    from broker.backends.nats.wire.info import ServerInfo
    from broker.backends.nats.wire.pool import Server

_MISSES: Final = 2
_LAST_PATIENCE: Final = 0.7
"""The last wait is shorter by this factor, so that three intervals of silence never pass."""
_SECOND_LOOK: Final = 0.05


class HungUp(Exception):
    """The server is gone, or said something that ends the conversation."""


class Refused(HungUp):
    """The server does not take our credentials."""


class Owner(Protocol):
    """Who a connection belongs to; told from the event loop. Nothing here may raise."""

    receivers: Mapping[bytes, Receive]

    @abstractmethod
    def on_info(self, connection: Connection, info: ServerInfo) -> None:
        """The server told of itself once more."""

    @abstractmethod
    def on_error(self, connection: Connection, text: str) -> None:
        """The server complained."""

    @abstractmethod
    def on_gone(self, connection: Connection) -> None:
        """The connection is over, and not because its owner ended it."""


class Connection(asyncio.Protocol, Hearer):
    """From the socket's beginning to its end.

    Attributes:
        server: the other end.
        write: hands whole frames to the transport; returns at once, and does nothing when it is over (uvloop's
            transports raise from the moment they told us so).
        buffered: bytes the transport holds because the socket does not take them.
        last_words: what the server complained of last, unless it was one of our subjects.
        gone: why it is over; ``None`` while it is not.
    """

    def __init__(self, server: Server, owner: Owner) -> None:
        self.server = server
        self.conversation = Conversation(owner.receivers, self, self._say)
        self.write: Callable[[bytes], object] = _nowhere
        self.buffered: Callable[[], int] = _nothing
        self.last_words = ""
        self.gone: Exception | None = None
        self._owner: Owner | None = owner
        self._transport: Any = None
        self._changed: asyncio.Event = asyncio.Event()
        self._closed = asyncio.Event()
        self._pulse: asyncio.TimerHandle | None = None
        self._misses = 0

    # -- asyncio.Protocol ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See ``asyncio.Protocol``."""
        self.use(transport)

    def data_received(self, data: bytes) -> None:
        """See ``asyncio.Protocol``."""
        try:
            self.conversation.receive(data)
        except ProtocolViolation as exc:
            self._end(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        """See ``asyncio.Protocol``."""
        self._closed.set()
        self._end(HungUp(self.last_words) if self.last_words else exc or HungUp("the server hung up"))

    # -- what the server says -----------------------------------------------------------------------------------------

    def on_info(self, info: ServerInfo) -> None:
        """See ``Hearer``."""
        self._changed.set()
        if self._owner is not None:
            self._owner.on_info(self, info)

    def on_error(self, text: str) -> None:
        """See ``Hearer``."""
        if complaints.violation(text) is None:
            self.last_words = text
        self._changed.set()
        if self._owner is not None:
            self._owner.on_error(self, text)

    # -- for whoever opens it -----------------------------------------------------------------------------------------

    @property
    def transport(self) -> Any:
        """The transport of this moment."""
        return self._transport

    @property
    def peer(self) -> tuple[str, int] | None:
        """Address and port at the other end, when there is one."""
        found = None if self._transport is None else self._transport.get_extra_info("peername")
        return (found[0], found[1]) if isinstance(found, tuple) else None

    def use(self, transport: Any) -> None:
        """Go on over this transport."""
        self._transport = transport
        if self.gone is not None:
            transport.abort()
            return
        self.write = transport.write
        self.buffered = transport.get_write_buffer_size

    async def greeted(self) -> ServerInfo:
        """The server's first words.

        Raises:
            HungUp, Refused, OSError, ProtocolViolation: there will be none.
        """
        while (info := self.conversation.info) is None:
            await self._change()
        return info

    async def answered(self, greeting: bytes) -> None:
        """Say the greeting and PING, and wait for the PONG: the server has taken it all.

        Raises:
            HungUp, Refused, OSError, ProtocolViolation: it has not.
        """
        done = False

        def answer() -> None:
            nonlocal done
            done = True
            self._changed.set()

        self.conversation.ping(answer, after=greeting)
        while not done:
            await self._change()
        self.check()

    def check(self) -> None:
        """Raises ``Refused`` or why the connection is over, when one of them is so."""
        if complaints.is_refusal(self.last_words):
            raise Refused(self.last_words)
        if self.gone is not None:
            raise self.gone

    async def _change(self) -> None:
        self.check()
        self._changed.clear()
        await self._changed.wait()
        self.check()

    def beat(self, every: float) -> None:
        """Ping from now on; end the connection when nothing is heard after two of them."""
        self._stop_pulse()
        self._misses = 0
        self.conversation.heard = True
        self._pulse = asyncio.get_running_loop().call_later(every, self._beat, every)

    def _beat(self, every: float) -> None:
        loop = asyncio.get_running_loop()
        self._misses = 0 if self.conversation.heard else self._misses + 1
        if self._misses >= _MISSES:
            # If it was our own loop that was late, an answer may lie in the socket: it is read before the second look.
            self._pulse = loop.call_later(_SECOND_LOOK, self._second_look, every)
            return
        self.conversation.heard = False
        self.conversation.ping()
        self._pulse = loop.call_later(every * (_LAST_PATIENCE if self._misses else 1), self._beat, every)

    def _second_look(self, every: float) -> None:
        if self.conversation.heard:
            self._beat(every)
        else:
            self._end(HungUp("no answer to pings"))

    def _stop_pulse(self) -> None:
        if self._pulse is not None:
            self._pulse.cancel()
            self._pulse = None

    # -- the end ------------------------------------------------------------------------------------------------------

    def abort(self) -> None:
        """Cut it now, whatever the other side does. Its owner hears nothing of it any more."""
        self._owner = None
        self._end(HungUp("left"))

    def leave(self) -> None:
        """Cut it now; its owner is told."""
        self._end(HungUp("left"))

    async def close(self, linger: float, parting: float) -> None:
        """Let the socket take what it holds for at most ``linger`` seconds, then cut; ``parting`` seconds for that."""
        self._owner = None
        self._stop_pulse()
        if self.gone is not None or self._transport is None:
            return
        self.write, self.buffered = _nowhere, _nothing
        self._transport.close()
        await self._over(linger)
        self.abort()
        await self._over(parting)

    async def _over(self, timeout: float) -> None:
        try:
            async with asyncio.timeout(timeout):
                await self._closed.wait()
        except TimeoutError:
            return

    def _end(self, why: Exception) -> None:
        if self.gone is not None:
            return
        self.gone = why
        self.write, self.buffered = _nowhere, _nothing
        self._stop_pulse()
        if self._transport is not None:
            self._transport.abort()
        self._changed.set()
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.on_gone(self)

    def _say(self, frame: bytes) -> None:
        self.write(frame)


def _nowhere(_: bytes) -> None:
    """There is no transport."""


def _nothing() -> int:
    return 0
