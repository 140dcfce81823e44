"""nats-py, steered: it connects, authenticates and reconnects; subscriptions, bytes out and messages in are ours.

The only file that knows nats-py, its private parts included (docs/decisions/0004): whole frames per write, so that its
own frames never land inside one of ours; its read loop, parser and error sorting are replaced.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from abc import abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol

import orjson
from nats import errors as vendor
from nats.aio.client import Client, Server, Srv
from nats.aio.transport import TcpTransport

from broker.backends.nats import frames
from broker.backends.nats.natspy.pipes import NoPipe, SocketPipe, WebPipe
from broker.backends.nats.parser import Parser
from broker.backends.nats.patience import ONE_SERVER, PARTING, PING_EVERY, SHORTEST_WAIT, wait_before

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker.backends.nats.addresses import Address
    from broker.backends.nats.contract import Receive
    from broker.backends.nats.outbound import Pipe
    from broker.contracts.options import ConnectOptions

_READ: Final = 128 << 10
_PINGS_MISSED: Final = 2


class GiveUp(Exception):
    """Raised by ``Steering.attempt_failed`` to leave nats-py's connect loop, which has no end of its own."""


class Steering(Protocol):
    """Who decides: told of everything, always from the event loop."""

    receivers: Mapping[bytes, Receive]
    """Who receives, by subscription number."""

    @abstractmethod
    def subscriptions(self) -> bytes:
        """What a new connection is asked for before anything else."""

    @abstractmethod
    def complained(self, text: str) -> None:
        """The server said -ERR, in its own case."""

    @abstractmethod
    def attempt_failed(self, text: str) -> None:
        """A try to connect failed; ``GiveUp`` ends the first connect."""

    @abstractmethod
    def broken(self, why: str) -> None:
        """The connection is gone; nats-py looks for another from here on."""

    @abstractmethod
    def restored(self) -> None:
        """There is one again, subscriptions included."""

    @abstractmethod
    def lame_duck(self) -> None:
        """The server is about to stop."""


class NatsPy(Client):
    """nats-py with its read side, its subscriptions, error handling and disconnect replaced.

    Attributes:
        pipe: where frames go on the connection of this moment; nowhere while there is none.
    """

    def __init__(self, steering: Steering, *, tls: bool) -> None:
        super().__init__()
        self._steering = steering
        self._wants_tls = tls
        self.pipe: Pipe = NoPipe()
        self._ps: Any = Parser(steering.receivers)
        self._left = ""
        self._tries = 0
        self._hung_up = False

    async def open(self, options: ConnectOptions, address: Address) -> None:
        """Connect for the first time; ends by success or by ``GiveUp``."""
        connect: Any = self.connect  # its annotations want whole seconds, its code does not
        await connect(
            servers=list(address.urls),
            name=options.name,
            tls=options.tls,
            tls_handshake_first=options.tls_first,
            no_echo=not options.echo,
            user=address.user,
            password=address.password,
            token=address.token,
            user_credentials=options.creds,
            connect_timeout=min(ONE_SERVER, options.connect_timeout),
            reconnect_time_wait=SHORTEST_WAIT,
            max_reconnect_attempts=-1,
            ping_interval=PING_EVERY,
            max_outstanding_pings=_PINGS_MISSED,
            error_cb=self._on_error,
            reconnected_cb=self._on_reconnected,
            reconnect_to_server_handler=self._choose,
        )

    # -- in -----------------------------------------------------------------------------------------------------------

    async def _read_loop(self) -> None:
        try:
            while not (self.is_closed or self.is_reconnecting):
                data = await self._wire.read(_READ)
                if not data:
                    raise vendor.UnexpectedEOF  # noqa: TRY301 - the server hung up: handled like any broken read
                for line in self._ps.feed(data):
                    await self._control(line)
        except Exception as exc:  # noqa: BLE001 - whatever breaks reading breaks the connection, never the task silently
            await self._process_op_err(exc)

    async def _control(self, line: bytes) -> None:
        if line == b"PONG":
            await self._process_pong()
        elif line == b"PING":
            self.pipe.write(frames.PONG)
        elif line.startswith(b"-ERR"):
            self._steering.complained(line[4:].decode("utf-8", "replace").strip().strip("'"))
        elif line.startswith(b"INFO"):
            await self._process_info(orjson.loads(line[5:]))
        elif line and not line.startswith(b"+OK"):
            raise vendor.ProtocolError

    async def _process_pong(self) -> None:
        self._pings_outstanding = 0
        if self._pongs:
            future = self._pongs.pop(0)
            if not future.done():
                future.set_result(True)

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:  # noqa: FBT001, FBT002 - overrides
        if initial_connection and self._wants_tls and not info.get("tls_required"):
            if not info.get("tls_available"):
                raise vendor.Error("the server does not offer TLS")
            info["tls_required"] = True
        await super()._process_info(info, initial_connection)
        if not initial_connection and info.get("ldm"):
            self._steering.lame_duck()

    # -- connecting ---------------------------------------------------------------------------------------------------

    async def _connect_to_server(self, s: Srv) -> None:
        try:
            await super()._connect_to_server(s)
        except (OSError, vendor.Error):
            raise
        except Exception as exc:
            raise vendor.Error(f"{exc}") from exc

    async def _process_connect_init(self) -> None:
        self._stop_tasks()
        try:
            self._stop_if_closed()
            await super()._process_connect_init()
            if not self.is_connected:
                raise vendor.Error("the server did not answer the greeting")  # noqa: TRY301 - one way out below
        except BaseException as exc:
            self._stop_tasks()
            self.abort()
            if isinstance(exc, OSError | vendor.Error) or not isinstance(exc, Exception):
                raise
            raise vendor.Error(f"{exc}") from exc
        self.pipe = SocketPipe(self._socket.transport) if self._over_tcp else WebPipe(self._wire)
        if asked := self._steering.subscriptions():
            self.pipe.write(asked)
        self._tries = 0

    async def flush(self, timeout: int = ONE_SERVER) -> None:
        """Only nats-py's own reconnect calls this."""
        try:
            await super().flush(timeout)
        except vendor.Error:
            self.abort()
            raise

    async def _process_op_err(self, e: Exception) -> None:
        if self.is_closed or self.is_reconnecting:
            return
        self._left = self.server
        self._steering.broken(_told(e))
        # A graceful close waits for the socket to take what is buffered; a frozen server never does.
        self.abort()
        await super()._process_op_err(e)

    async def _on_error(self, exc: Exception) -> None:
        self._steering.attempt_failed(_told(exc))

    async def _on_reconnected(self) -> None:
        if not self.is_closed:
            self._steering.restored()

    def _choose(self, servers: list[Server], _info: dict[str, Any]) -> tuple[Server, float]:
        """Another server before the one just left, the least tried first, after a short random wait."""
        self._stop_if_closed()
        self._tries += 1
        chosen = min(servers, key=lambda each: (each.reconnects, each.uri.netloc == self._left, random.random()))
        return chosen, wait_before(self._tries)

    def _stop_if_closed(self) -> None:
        """End a reconnect that was cancelled just when its connect was refused or done.

        ``asyncio.wait_for`` hides that, and nats-py's own status is "reconnecting" again after a refusal.
        """
        if self._hung_up:
            raise asyncio.CancelledError

    # -- for the steering ---------------------------------------------------------------------------------------------

    @property
    def server(self) -> str:
        """Host and port of the current server."""
        return "" if self._current_server is None else str(self._current_server.uri.netloc)

    @property
    def clustered(self) -> bool:
        """Whether the server names a cluster it belongs to."""
        return bool(self._server_info.get("cluster"))

    @property
    def has_jetstream(self) -> bool:
        """Whether the server says that it has JetStream."""
        return bool(self._server_info.get("jetstream"))

    @property
    def server_id(self) -> str:
        """What the current server calls itself."""
        return str(self._server_info.get("server_id") or "")

    @property
    def pool_size(self) -> int:
        """How many servers are known."""
        return len({each.netloc for each in self.servers})

    def ping(self, answered: asyncio.Future[bool]) -> None:
        """Send a PING now; the future gets its PONG."""
        self._pongs.append(answered)
        self.pipe.write(frames.PING)

    async def leave(self) -> None:
        """Look for another server now."""
        await self._process_op_err(vendor.StaleConnectionError())

    def abort(self) -> None:
        """Cut the connection without waiting for the other side."""
        self.pipe = NoPipe()  # nats-py uses a websocket's queue again: what is left there would come before CONNECT
        if self._over_tcp:
            if self._socket is not None:
                self._socket.transport.abort()
        elif self._transport is not None:
            with suppress(Exception):
                self._wire.close()

    async def hang_up(self, linger: float) -> None:
        """Let the socket take what it holds for at most ``linger`` seconds, then let go of everything."""
        self._status = Client.CLOSED
        self._hung_up = True
        self._stop_tasks()
        if self._reconnection_task is not None and not self._reconnection_task.done():
            self._reconnection_task.cancel()
            linger = 0
        tasks = (self._reading_task, self._ping_interval_task, self._flusher_task, self._reconnection_task)
        waiting = {task for task in tasks if task is not None and task is not asyncio.current_task()}
        if waiting:
            await asyncio.wait(waiting, timeout=PARTING)
        if self._transport is None:
            return
        closing = asyncio.get_running_loop().create_task(self._let_go())
        if linger:
            await asyncio.wait({closing}, timeout=linger)
        self.abort()
        await asyncio.wait({closing}, timeout=PARTING)
        closing.cancel()

    async def _let_go(self) -> None:
        with suppress(Exception):
            self._wire.close()
            await self._wire.wait_closed()

    def _stop_tasks(self) -> None:
        for task in (self._reading_task, self._ping_interval_task, self._flusher_task):
            if task is not None and task is not asyncio.current_task():
                task.cancel()

    @property
    def _over_tcp(self) -> bool:
        return isinstance(self._transport, TcpTransport)

    @property
    def _wire(self) -> Any:
        """nats-py's transport, whose own types say that it may be missing when it is not."""
        return self._transport

    @property
    def _socket(self) -> Any:
        return self._wire._io_writer  # noqa: SLF001 - the file that knows nats-py


def _told(exc: Exception) -> str:
    """The reason in the server's or the system's words; the URLs we hand in hold no credentials."""
    if "aiohttp" in str(exc):
        return 'ws:// needs aiohttp: pip install "gamebroker[ws]"'
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"TLS failed: {exc.verify_message}"
    if isinstance(exc, ssl.SSLError):
        return f"TLS failed: {exc.reason or exc}"
    if isinstance(exc, TimeoutError):
        return "no answer in time"
    return str(exc).removeprefix("nats: ") or type(exc).__name__
