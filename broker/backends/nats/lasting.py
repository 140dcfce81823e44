"""What outlasts a connection: the subscriptions, the frames on their way out, and who waits for a pong."""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from broker.backends.nats import complaints, frames
from broker.backends.nats.contract import Link
from broker.backends.nats.outbound import Outbound
from broker.backends.nats.patience import LINGER
from broker.backends.nats.trouble import Trouble
from broker.contracts.errors import BrokerError, ConnectionLost, RequestTimeout

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from broker.backends.nats.contract import LinkEvents, Receive
    from broker.contracts.options import ConnectOptions
    from broker.contracts.status import Stats

_log: Final = logging.getLogger("broker.nats")


class LastingLink(Link):
    """What every link keeps while its connections come and go; how they do is the subclass's.

    Args:
        options: where and as whom to connect.
        events: who is told.
        stats: where dropped messages are counted.
    """

    def __init__(self, options: ConnectOptions, events: LinkEvents, stats: Stats) -> None:
        self._options = options
        self._events = events
        self._outbound = Outbound(options.outbound_limit, stats)
        self._up = False
        self._last_sid = 0
        self._wanted: dict[int, tuple[bytes, str | None]] = {}
        self._receivers: dict[bytes, Receive] = {}
        self.receivers: Mapping[bytes, Receive] = self._receivers
        self._pings: set[asyncio.Future[bool]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing: asyncio.Task[None] | None = None
        self._trouble = Trouble()
        self.closed = False
        self.max_payload = 0
        self.clustered = self.jetstream = False
        self.server_id = ""
        self.send = self._outbound.put
        self.send_stream = self._outbound.put_stream

    # -- what a subclass knows ----------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def server(self) -> str:
        """Host and port of the server of this moment, or of the last one; empty before the first."""

    @abstractmethod
    def _say(self, frame: bytes) -> None:
        """Say it on the connection there is, or is being opened, past what waits; nothing happens without one."""

    @abstractmethod
    def _probe(self, answered: asyncio.Future[bool]) -> None:
        """Say PING on the connection there is; the future is done at its PONG."""

    @abstractmethod
    async def _part(self) -> None:
        """Let go of the connection, and of any attempt at one, in bounded time."""

    # -- the link -----------------------------------------------------------------------------------------------------

    @property
    def congested(self) -> bool:
        """See ``Link``."""
        return self._outbound.congested

    @property
    def trouble(self) -> str:
        """See ``Link``."""
        return str(self._trouble)

    async def writable(self) -> None:
        """See ``Link``."""
        await self._outbound.writable()

    def subscribe(self, pattern: bytes, queue: str | None, receive: Receive) -> int:
        """See ``Link``."""
        self._last_sid += 1
        sid = self._last_sid
        self._wanted[sid] = pattern, queue
        self._receivers[b"%d" % sid] = receive
        self._ask(frames.sub(pattern, queue, sid))
        return sid

    def unsubscribe(self, sid: int) -> None:
        """See ``Link``."""
        self._wanted.pop(sid, None)
        self._ask(frames.unsub(sid))

    def forget(self, sid: int) -> None:
        """See ``Link``."""
        self._wanted.pop(sid, None)
        self._receivers.pop(b"%d" % sid, None)

    def _ask(self, frame: bytes) -> None:
        """A connection that is being opened has been asked for the others already."""
        if not self._outbound.put_stream(frame) and not self.closed:
            self._say(frame)

    def subscriptions(self) -> bytes:
        """The frames that ask a new connection for everything we listen to."""
        return b"".join([frames.sub(pattern, queue, sid) for sid, (pattern, queue) in self._wanted.items()])

    async def ping(self, timeout: float) -> None:
        """See ``Link``."""
        if not self._up:
            raise ConnectionLost("not connected")
        answered: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._pings.add(answered)
        try:
            async with asyncio.timeout(timeout):
                await self._outbound.passed()
                if self._up:
                    self._probe(answered)
                await answered
        except TimeoutError as exc:
            raise RequestTimeout(f"the server did not answer a ping in {timeout:g} s") from exc
        finally:
            self._pings.discard(answered)
            answered.cancel()

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
        await self._part()
        self._receivers.clear()
        self._wanted.clear()
        self._fail_pings("the connection was closed")

    # -- what happens to a connection ---------------------------------------------------------------------------------

    def _lost(self, why: str) -> None:
        """It broke; what was in flight is unknown to its callers."""
        self._up = False
        self._outbound.detach()
        self._trouble.begin(self.server, why)
        self._fail_pings("the connection broke")
        _log.warning("the connection to %s is lost (%s), reconnecting", self.server, why)
        self._tell(self._events.on_lost)

    def _back(self) -> None:
        """There is one again, and frames go out on it."""
        _log.info("connected again, to %s", self.server)
        self._tell(self._events.on_restored)

    def _refuse(self) -> None:
        """The server does not want us any more, and we give up."""
        if self.closed:
            return
        self.closed = True
        _log.error("%s refuses our credentials", self.server)
        self._tell(self._events.on_refused)
        self._spawn(self.close())

    def _complain(self, text: str) -> None:
        """The server complained, and not of our credentials. It hangs up by itself where it must."""
        violation = complaints.violation(text)
        if violation is None:
            self._tell(self._events.on_complaint, text)
        else:
            self._tell(self._events.on_violation, *violation, text)

    async def _catch_up(self) -> None:
        """Give the server a moment to process what was sent."""
        with suppress(BrokerError):
            await self.ping(LINGER)

    async def _last_word(self) -> None:
        """Nothing is sent any more: give the server a moment to process what was."""
        answered: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._probe(answered)
        try:
            await asyncio.wait({answered}, timeout=LINGER)
        finally:
            answered.cancel()

    def _fail_pings(self, why: str) -> None:
        for future in self._pings:
            if not future.done():
                future.set_exception(ConnectionLost(why))

    def _tell(self, listener: Callable[..., None], *what: str | None) -> None:
        try:
            listener(*what)
        except Exception:  # noqa: BLE001 - whoever listens must not raise; if it does, the connection goes on
            _log.exception("telling of the connection failed")

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
