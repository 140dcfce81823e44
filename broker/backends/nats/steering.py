"""The link over nats-py: when to give up, what an error means, what happens to frames around a reconnect."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from broker.backends.nats import complaints, frames
from broker.backends.nats.contract import Link
from broker.backends.nats.link import GiveUp, NatsPy, Steering
from broker.backends.nats.outbound import Outbound
from broker.backends.nats.wire.auth import Identity
from broker.backends.nats.wire.info import parse_info
from broker.contracts.errors import BrokerError, ConnectError, ConnectionLost, RequestTimeout, Unauthorized

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from broker.backends.nats.addresses import Address
    from broker.backends.nats.contract import LinkEvents, Receive
    from broker.contracts.options import ConnectOptions
    from broker.contracts.status import Stats

_log: Final = logging.getLogger("broker.nats")
_REFUSALS: Final = 2
"""Refusals in a row, while reconnecting, that are taken as final; one may be a server that is still starting."""
_LINGER: Final = 0.5
_PARTING: Final = 1.0


_EXTRAS: Final = {"nkeys": 'creds= needs nkeys: pip install "gamebroker[nkeys]"'}
"""Modules that only some ways to connect need, and how to get them."""


class SteeredLink(Link, Steering):
    """A link whose driver is nats-py."""

    def __init__(self, options: ConnectOptions, address: Address, events: LinkEvents, stats: Stats) -> None:
        self._options = options
        self._address = address
        self._events = events
        self._outbound = Outbound(options.outbound_limit, stats)
        self.receivers: dict[bytes, Receive] = {}
        self._driver = NatsPy(self, tls=address.tls and not address.web)
        self._late: list[bytes] = []
        self._pings: set[asyncio.Future[bool]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing: asyncio.Task[None] | None = None
        self._failures: list[str] = []
        self._refusals = 0
        self._was_up = False
        self._up = False
        self.closed = False
        self.max_payload = 0
        self.clustered = False
        self.send = self._outbound.put
        self.send_stream = self._outbound.put_stream

    # -- connecting ---------------------------------------------------------------------------------------------------

    async def connect(self) -> None:
        """See ``Link``."""
        attempt = asyncio.get_running_loop().create_task(self._attempt())
        try:
            await asyncio.wait({attempt}, timeout=self._options.connect_timeout)
            if attempt.done():
                attempt.result()
            else:
                self._failures.append(f"no answer in {self._options.connect_timeout:g} s")
                attempt.cancel()
                self._driver.abort()
                await asyncio.wait({attempt}, timeout=_PARTING)
            if not self._driver.is_connected:
                raise self._failure()  # noqa: TRY301 - leaves through the clean-up below
        except BaseException:
            self.closed = True
            await asyncio.shield(self._spawn(self._give_up(attempt)))
            raise
        self._opened()

    async def _give_up(self, attempt: asyncio.Task[None]) -> None:
        """Hang up after the attempt is over: cancelling it may come to nothing, and then it connects."""
        attempt.cancel()
        await asyncio.wait({attempt}, timeout=_PARTING)
        await self._driver.hang_up(0)

    async def _attempt(self) -> None:
        try:
            if self._options.creds is not None:  # nats-py looks at them only when a server asks
                await Identity(self._address, self._options.creds).fields(parse_info(b"{}"))
            await self._driver.open(self._options, self._address)
        except GiveUp:
            return
        except ImportError as exc:
            self._failures.append(_EXTRAS.get(str(exc.name), str(exc)))
        except Exception as exc:  # noqa: BLE001 - whatever the driver raises becomes ours at this border
            self._failures.append(str(exc) or type(exc).__name__)

    def _failure(self) -> ConnectError:
        told = "; ".join(dict.fromkeys(self._failures))
        if self._refusals:
            return Unauthorized(f"{self._address} refused the credentials: {told}")
        return ConnectError(f"could not connect to {self._address}: {told}")

    def attempt_failed(self, text: str) -> None:
        """See ``Steering``."""
        if self._up or self.closed:
            return
        refused = complaints.is_refusal(text)
        if not self._was_up:
            self._failures.append(text)
            self._refusals += refused
            if refused or len(self._failures) >= self._driver.pool_size:
                raise GiveUp
            return
        self._refusals = self._refusals + 1 if refused else 0
        if self._refusals >= max(_REFUSALS, self._driver.pool_size):
            self._refuse()

    def _opened(self) -> None:
        self._up = self._was_up = True
        self._refusals = 0
        self.max_payload = self._driver.max_payload
        self.clustered = self._driver.clustered
        self._outbound.attach(self._driver.pipe)
        for frame in self._late:
            self._outbound.put_stream(frame)
        self._late.clear()

    # -- what the driver tells ----------------------------------------------------------------------------------------

    def complained(self, text: str) -> None:
        """See ``Steering``. The server hangs up by itself where it must, and then we reconnect."""
        violation = complaints.violation(text)
        if violation is not None:
            self._events.on_violation(*violation, text)
        elif complaints.is_refusal(text):
            self._refuse()
        else:
            self._events.on_complaint(text)

    def broken(self) -> None:
        """See ``Steering``."""
        if not self._up:
            return
        self._up = False
        self._outbound.detach()
        for future in self._pings:
            if not future.done():
                future.set_exception(ConnectionLost("the connection broke"))
        _log.warning("the connection to %s is lost, reconnecting", self._driver.server)
        self._events.on_lost()

    def restored(self) -> None:
        """See ``Steering``."""
        self._opened()
        _log.info("connected again, to %s", self._driver.server)
        self._events.on_restored()

    def lame_duck(self) -> None:
        """See ``Steering``. Go while the server still answers, if there is somewhere to go."""
        if self._driver.pool_size > 1:
            _log.info("%s is shutting down, moving to another server", self._driver.server)
            self._spawn(self.force_reconnect())

    def _refuse(self) -> None:
        if self.closed:
            return
        self.closed = True
        _log.error("%s refuses our credentials", self._driver.server)
        self._events.on_refused()
        self._spawn(self.close())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    @property
    def server(self) -> str:
        """Host and port of the server of this moment."""
        return self._driver.server

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
        sid = self._driver.remember(pattern, queue)
        self.receivers[b"%d" % sid] = receive
        self._tell(frames.sub(pattern, queue, sid))
        return sid

    def unsubscribe(self, sid: int) -> None:
        """See ``Link``."""
        self._driver.forget(sid)
        self._tell(frames.unsub(sid))

    def forget(self, sid: int) -> None:
        """See ``Link``."""
        self._driver.forget(sid)
        self.receivers.pop(b"%d" % sid, None)

    def _tell(self, frame: bytes) -> None:
        """A reconnect may have replayed the subscriptions already, so what is said meanwhile is said once more."""
        if not self._outbound.put_stream(frame) and not self.closed:
            self._late.append(frame)

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
                    self._driver.ping(answered)
                await answered
        except TimeoutError as exc:
            raise RequestTimeout(f"the server did not answer a ping in {timeout:g} s") from exc
        finally:
            self._pings.discard(answered)
            answered.cancel()

    async def force_reconnect(self) -> None:
        """See ``Link``."""
        with suppress(BrokerError):
            await self.ping(_LINGER)
        if self._up:
            # From here on frames are kept for the next server: what was sent meanwhile is processed before we go.
            self.broken()
            answered: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            self._driver.ping(answered)
            await asyncio.wait({answered}, timeout=_LINGER)
        if not self._up and not self.closed:
            await self._driver.leave()

    async def close(self) -> None:
        """See ``Link``."""
        self.closed = True
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self._outbound.push()
        self._up = False
        await self._driver.hang_up(_LINGER)
        self._outbound.close()
        self.receivers.clear()
        for future in self._pings:
            if not future.done():
                future.set_exception(ConnectionLost("the connection was closed"))
