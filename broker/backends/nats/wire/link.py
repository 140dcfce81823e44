"""The link on our own wire: what is subscribed to, what is on its way out, and what a break means for both."""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from broker.backends.nats import complaints, frames
from broker.backends.nats.contract import Link
from broker.backends.nats.outbound import Outbound
from broker.backends.nats.wire.dial import Dialer, Host, told
from broker.contracts.errors import BrokerError, ConnectionLost, InvalidOption, RequestTimeout

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from broker.backends.nats.addresses import Address
    from broker.backends.nats.contract import LinkEvents, Receive
    from broker.backends.nats.wire.connection import Connection
    from broker.backends.nats.wire.info import ServerInfo
    from broker.contracts.options import ConnectOptions
    from broker.contracts.status import Stats

_log: Final = logging.getLogger("broker.nats")
_PING_EVERY: Final = 2.0
_LINGER: Final = 0.5
_PARTING: Final = 1.0
_SPREAD: Final = 0.2
"""Seconds over which the clients of a server that is about to stop move; the pause between tries, too."""
_EXPIRED: Final = "expired"


class WireLink(Link, Host):
    """A link without a client library.

    Args:
        options: where and as whom to connect; ``creds`` may also be a file with an nkey seed alone.
        address: the same, taken apart.
        events: who is told.
        stats: where dropped messages are counted.
        tls_first: shake hands before the server's INFO (``handshake_first`` in its configuration).
        echo: whether our own messages come back to our own subscriptions.
        ping_every: seconds between pings; a server silent for less than three of them is left.

    Raises:
        InvalidOption: websockets are not for this link.
    """

    def __init__(
        self,
        options: ConnectOptions,
        address: Address,
        events: LinkEvents,
        stats: Stats,
        *,
        tls_first: bool = False,
        echo: bool = True,
        ping_every: float = _PING_EVERY,
    ) -> None:
        if address.web:
            raise InvalidOption("url: ws:// and wss:// need link='nats-py'", option="url")
        self._events = events
        self._outbound = Outbound(options.outbound_limit, stats)
        self._dialer = Dialer(options, address, self, tls_first=tls_first, echo=echo)
        self._ping_every = ping_every
        self._connection: Connection | None = None
        self._up = False
        self._next_sid = 0
        self._wanted: dict[int, tuple[bytes, str | None]] = {}
        self.receivers: dict[bytes, Receive] = {}
        self._pings: set[asyncio.Future[bool]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._finding: asyncio.Task[None] | None = None
        self._moving: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self.closed = False
        self.max_payload = 0
        self.clustered = False
        self.send = self._outbound.put
        self.send_stream = self._outbound.put_stream

    @property
    def server(self) -> str:
        """Host and port of the server of this moment, or of the last one."""
        return "" if self._connection is None else str(self._connection.server)

    # -- connecting ---------------------------------------------------------------------------------------------------

    async def connect(self) -> None:
        """See ``Link``."""
        try:
            connection = await self._dialer.first()
        except BaseException:
            self.closed = True
            raise
        if self.closed:
            connection.abort()
            raise ConnectionLost("closed while connecting")
        self._opened(connection)

    def opening(self, connection: Connection) -> bytes:
        """See ``Host``."""
        self._connection = connection
        return self._subscriptions()

    def _subscriptions(self) -> bytes:
        return b"".join([frames.sub(pattern, queue, sid) for sid, (pattern, queue) in self._wanted.items()])

    def _opened(self, connection: Connection) -> None:
        info = connection.conversation.info
        assert info is not None
        self._up = True
        connection.beat(self._ping_every)
        self._outbound.attach(connection)
        self._heed(connection, info)

    async def _find(self) -> None:
        connection = await self._dialer.again()
        if connection is None:
            self._refuse()
            return
        self._opened(connection)
        _log.info("connected again, to %s", self.server)
        self._tell(self._events.on_restored)

    async def _move(self, leaving: Connection) -> None:
        """From a server that is about to stop to another: found first, so that hardly anything waits meanwhile."""
        while self._uses(leaving):
            await asyncio.sleep(random.uniform(0, _SPREAD))
            found = await self._dialer.beside(leaving)
            if found is None:
                continue
            try:
                with suppress(BrokerError):
                    await self.ping(_LINGER)
                if self._uses(leaving) and found.gone is None:
                    await self._hand_over(leaving, found)
            finally:
                if found is not self._connection:
                    found.abort()

    def _uses(self, connection: Connection) -> bool:
        return self._up and not self.closed and connection is self._connection

    async def _hand_over(self, leaving: Connection, found: Connection) -> None:
        """Nothing more goes to the old server; when it has processed what went before, the new one takes over."""
        self._outbound.detach()
        answered: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        leaving.conversation.ping(partial(_answer, answered))
        try:
            await asyncio.wait({answered}, timeout=_LINGER)
        finally:
            answered.cancel()
            if self._uses(leaving):
                self._switch(leaving, leaving if found.gone else found)

    def _switch(self, leaving: Connection, found: Connection) -> None:
        """Use the one found; what was in flight is unknown to its callers, as at any break."""
        self._fail_pings("moved to another server")
        self._tell(self._events.on_lost)
        if found is not leaving:
            self._connection = found
            self._spawn(leaving.close(_LINGER, _PARTING))
            found.write(self._subscriptions())
            _log.info("moved to %s", self.server)
        self._opened(found)
        self._tell(self._events.on_restored)

    # -- what the connection tells ------------------------------------------------------------------------------------

    def on_info(self, connection: Connection, info: ServerInfo) -> None:
        """See ``Owner``."""
        self._dialer.pool.learn(info.connect_urls, connection.server, connection.peer)
        if self._uses(connection):
            self._heed(connection, info)

    def _heed(self, connection: Connection, info: ServerInfo) -> None:
        """A server that is about to stop is left while it still answers, if there is another."""
        self.max_payload, self.clustered = info.max_payload, bool(info.cluster)
        if info.lame_duck and len(self._dialer.pool) > 1 and (self._moving is None or self._moving.done()):
            _log.info("%s is shutting down, moving to another server", self.server)
            self._moving = self._spawn(self._move(connection))

    def on_error(self, connection: Connection, text: str) -> None:
        """See ``Owner``. The server hangs up by itself where it must, and then we reconnect."""
        if connection is not self._connection:
            return
        violation = complaints.violation(text)
        if violation is not None:
            self._tell(self._events.on_violation, *violation, text)
        elif not complaints.is_refusal(text):
            if self._up or self._wanted:
                self._tell(self._events.on_complaint, text)
        elif self._up and not (self._dialer.identity.renewable and _EXPIRED in text.lower()):
            self._refuse()

    def on_gone(self, connection: Connection) -> None:
        """See ``Owner``."""
        if not self._uses(connection):
            return
        self._up = False
        self._outbound.detach()
        self._fail_pings("the connection broke")
        why = "" if connection.gone is None else told(connection.gone)
        _log.warning("the connection to %s is lost (%s), reconnecting", connection.server, why)
        self._tell(self._events.on_lost)
        self._finding = self._spawn(self._find())

    def _refuse(self) -> None:
        if self.closed:
            return
        self.closed = True
        _log.error("%s refuses our credentials", self.server)
        self._tell(self._events.on_refused)
        self._spawn(self.close())

    def _tell(self, listener: Callable[..., None], *what: str) -> None:
        try:
            listener(*what)
        except Exception:  # noqa: BLE001 - whoever listens must not raise; if it does, the connection goes on
            _log.exception("telling of the connection failed")

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _fail_pings(self, why: str) -> None:
        for future in self._pings:
            if not future.done():
                future.set_exception(ConnectionLost(why))

    # -- the link -----------------------------------------------------------------------------------------------------

    @property
    def congested(self) -> bool:
        """See ``Link``."""
        return self._outbound.congested

    async def writable(self) -> None:
        """See ``Link``."""
        await self._outbound.writable()

    def subscribe(self, pattern: bytes, queue: str | None, receive: Receive) -> int:
        """See ``Link``."""
        self._next_sid += 1
        sid = self._next_sid
        self._wanted[sid] = pattern, queue
        self.receivers[b"%d" % sid] = receive
        self._ask(frames.sub(pattern, queue, sid))
        return sid

    def unsubscribe(self, sid: int) -> None:
        """See ``Link``."""
        self._wanted.pop(sid, None)
        self._ask(frames.unsub(sid))

    def forget(self, sid: int) -> None:
        """See ``Link``."""
        self._wanted.pop(sid, None)
        self.receivers.pop(b"%d" % sid, None)

    def _ask(self, frame: bytes) -> None:
        """A connection that is being opened has been asked for the others already."""
        if not self._outbound.put_stream(frame) and self._connection is not None:
            self._connection.write(frame)

    async def ping(self, timeout: float) -> None:
        """See ``Link``."""
        if not self._up:
            raise ConnectionLost("not connected")
        answered: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._pings.add(answered)
        try:
            async with asyncio.timeout(timeout):
                await self._outbound.passed()
                if self._up and self._connection is not None:
                    self._connection.conversation.ping(partial(_answer, answered))
                await answered
        except TimeoutError as exc:
            raise RequestTimeout(f"the server did not answer a ping in {timeout:g} s") from exc
        finally:
            self._pings.discard(answered)
            answered.cancel()

    async def force_reconnect(self) -> None:
        """See ``Link``."""
        connection = self._connection
        with suppress(BrokerError):
            await self.ping(_LINGER)
        if self._up and connection is not None and connection is self._connection:
            connection.leave()

    async def close(self) -> None:
        """See ``Link``."""
        self.closed = True
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self._outbound.push()
        self._outbound.close()
        self._up = False
        looking = {each for each in (self._finding, self._moving) if each is not None and not each.done()}
        for task in looking:
            task.cancel()
        if looking:
            await asyncio.wait(looking, timeout=_PARTING)
        if self._connection is not None:
            await self._connection.close(_LINGER, _PARTING)
        self.receivers.clear()
        self._wanted.clear()
        self._fail_pings("the connection was closed")


def _answer(future: asyncio.Future[bool]) -> None:
    if not future.done():
        future.set_result(True)
