"""One real nats-server."""

from __future__ import annotations

import asyncio
import signal
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from broker.server.binary import find_nats_server
from broker.server.config import Settings, address, reachable
from broker.server.errors import InUse, ServerError
from broker.server.ports import free_ports
from broker.server.process import TICK, Process, until
from broker.server.ready import greets, is_healthy, jetstream_answers
from broker.server.store import Store
from broker.server.watchdog import Guard

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType

    from broker.server.watchdog import Watchdog

_STILL_IN_USE = 3.0  # seconds a port or a store may stay busy: the server before this one may be ending
_ONE_START = 0.5  # seconds a last try needs before the deadline, so that "in use" is told and not "not ready"
_SIGNAL_TIMEOUT = 5.0


class NatsServer:
    """A nats-server process with JetStream on disk, ended with the program that started it, however that ends.

    It listens on loopback, on a free port, and that port stays the same over every restart. Without ``store_dir``
    it stores in a temporary directory that lives until ``stop()`` or the program's end.

    Attributes:
        settings: what it is started with.
        env: variables for its configuration text, besides those of this process.
        store: its directory and what is in it.

    Args:
        store_dir: where JetStream, log and configuration live; it survives ``stop()``. One server at a time uses it.
        port: for clients; None chooses a free one.
        host: address to listen on.
        binary: path of the executable; None finds it.
        sync_interval: JetStream's; "always" makes an ack mean "on disk", None is the server's default.
        config: more configuration text. A top-level key in it wins over what the other arguments say; a
            ``jetstream`` block in it replaces ours, ``sync_interval`` included.
        name: the server's name.
        max_payload: in bytes.
        monitoring: whether to serve the monitoring pages, at ``monitoring_url``.
        login: how the readiness probe logs in when ``config`` asks for it, as fields of CONNECT (``user`` and
            ``pass``, or ``auth_token``). Without, or with TLS, a server is ready when it greets.
        watchdog: brings the server back when it ends and nobody asked it to by this object, and tells when it does not
            answer or is running out of room; ``wait()`` raises when it gives up. It works while the event loop of
            ``start()`` runs.
    """

    def __init__(
        self,
        store_dir: str | Path | None = None,
        *,
        port: int | None = None,
        host: str = "127.0.0.1",
        binary: str | Path | None = None,
        sync_interval: str | None = "always",
        config: str | None = None,
        name: str | None = None,
        max_payload: int | None = None,
        monitoring: bool = False,
        login: Mapping[str, str] | None = None,
        watchdog: Watchdog | None = None,
    ) -> None:
        self.settings = Settings(
            host=host,
            port=port or 0,
            name=name,
            sync_interval=sync_interval,
            max_payload=max_payload,
            text=config or "",
        )
        self._monitoring = monitoring
        self._binary = binary
        self._login = login
        self.env: Mapping[str, str] | None = None
        self.store = Store(store_dir)
        self._process: Process | None = None
        self._binary_path: Path | None = None
        self._version = ""
        self._watchdog = watchdog
        self._guard: Guard | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def port(self) -> int:
        """The client port; chosen by the first ``start()`` unless given."""
        if not self.settings.port:
            raise ServerError("the server has no port before its first start()")
        return self.settings.port

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://{address(reachable(self.settings.host), self.port)}"

    @property
    def monitoring_url(self) -> str | None:
        """Where the monitoring pages are; None without monitoring, and before the first ``start()``."""
        port = self.settings.http_port
        return None if port is None else f"http://{address(reachable(self.settings.host), port)}"

    @property
    def store_dir(self) -> Path:
        """Where the server stores; a temporary one exists from ``start()`` to ``stop()``."""
        return self.store.path

    @property
    def log(self) -> Path:
        """The server's log file, in its store."""
        return self.store.log

    @property
    def last_words(self) -> str:
        """The last lines logged since the last start or reload."""
        return self.store.tail()

    @property
    def version(self) -> str:
        """The nats-server's version, known from the first ``start()`` on."""
        return self._version

    @property
    def pid(self) -> int | None:
        """The nats-server's process id; None when it does not run."""
        return self._process.pid if self._process is not None and self._process.running else None

    @property
    def running(self) -> bool:
        """Whether the process exists; a frozen one does."""
        return self._process is not None and self._process.running

    @property
    def restarts(self) -> int:
        """How often the watchdog has brought the server back."""
        return 0 if self._guard is None else self._guard.restarts

    async def start(self, timeout: float = 10.0) -> None:
        """Returns when JetStream answers; a no-op while running. Failed or cancelled, it leaves nothing behind."""
        if self.running and not self._is_reviving:
            return
        try:
            await self._stand_down()
            binary = await asyncio.to_thread(find_nats_server, self._binary)
            self._version, self._binary_path = binary.version, binary.path
            await self.revive(timeout)
        except BaseException:
            await self.stop(timeout=0)
            raise
        if self._watchdog is not None:
            self._guard = Guard(self, self._watchdog, restarts=self.restarts)

    async def revive(self, timeout: float) -> None:
        """Starts a server that was started before and has ended, as the watchdog does; failed, the store stays."""
        assert self._binary_path is not None
        if self._process is not None:
            await self._process.kill_server()
        try:
            await self._start_until_free(self._binary_path, time.monotonic() + timeout)
        except ServerError:
            if self._process is not None:
                await self._process.kill_server()
            raise

    @property
    def _is_reviving(self) -> bool:
        return self._guard is not None and self._guard.reviving

    async def _stand_down(self) -> None:
        """The watchdog looks away until the next ``start()``: what follows is its owner's will."""
        if self._guard is not None:
            await self._guard.end()

    async def _start_until_free(self, binary: Path, deadline: float) -> None:
        patience = min(deadline - _ONE_START, time.monotonic() + _STILL_IN_USE)
        may_move = not self.settings.port
        while True:
            self._choose_ports()
            try:
                await self._launch(binary)
                await self._ready(deadline)
            except InUse:
                if time.monotonic() >= patience:
                    raise
                if may_move:
                    await self.stop(timeout=0)
                    self.settings = replace(self.settings, port=0, http_port=None)
                await asyncio.sleep(TICK * 10)
            else:
                return

    def _choose_ports(self) -> None:
        settings = self.settings
        if not settings.port:
            settings = replace(settings, port=free_ports(1, settings.host)[0])
        if self._monitoring and settings.http_port is None:
            settings = replace(settings, http_port=free_ports(1, settings.host)[0])
        self.settings = settings

    async def _launch(self, binary: Path) -> None:
        given = self.store.open(self.settings)
        if self._process is not None and not self._process.guarded:  # someone killed the guardian
            await self._process.close(0)
            self._process = None
        if self._process is None:
            self._process = Process(
                [str(binary), *given],
                log=self.store.log,
                lock=self.store.lock,
                temporary=self.store.temporary,
                env=self.env,
            )
        self._process.launch()

    async def _ready(self, deadline: float) -> None:
        said = ""
        while time.monotonic() < deadline:
            self._check_alive()
            if self.store.ports_are_bound():
                said = await self._missing()
                if not said:
                    return
            await asyncio.sleep(TICK)
        raise ServerError(f"nats-server is not ready in time: {said or 'it does not listen'}\n{self.store.tail()}")

    def _check_alive(self) -> None:
        if self._process is not None and not self._process.over:
            return
        tail = self.store.tail()
        told = f"nats-server ended before it was ready; the end of its log:\n{tail}"
        raise InUse(told) if "address already in use" in tail else ServerError(told)

    async def _missing(self) -> str:
        # A node of a cluster cannot have JetStream answer before the others are there.
        if self.settings.peering is not None:
            return await greets(self.settings)
        return await jetstream_answers(self.settings, self._login)

    async def answers(self) -> str:
        """Returns what keeps the server from answering, in words; "" when it answers."""
        return await self._missing()

    async def health(self) -> str:
        """Returns what keeps the server from being healthy, in its own words; "" when it is. Needs monitoring."""
        return await is_healthy(self.settings)

    async def stop(self, timeout: float = 10.0) -> None:
        """Ends the server by SIGTERM, after the timeout by SIGKILL, and removes a temporary store. Safe to repeat."""
        try:
            await self._stand_down()
        finally:
            process, self._process = self._process, None
            try:
                if process is not None:
                    await process.close(timeout)
            finally:
                self.store.close()

    async def kill(self) -> None:
        """Ends the server by SIGKILL; ``start()`` brings it back on the same port and the same store."""
        await self._stand_down()
        if self._process is not None:
            await self._process.kill_server()

    async def restart(self, timeout: float = 10.0) -> None:
        """Ends the server by SIGTERM and starts it on the same port and the same store."""
        await self._stand_down()
        if self._process is not None:
            await self._process.end_server(timeout)
        await self.start(timeout)

    async def freeze(self) -> None:
        """Stops the server's clock by SIGSTOP: connections stay open and nothing answers."""
        process = self._send(signal.SIGSTOP)
        if not await until(lambda: process.stopped or process.over, _SIGNAL_TIMEOUT):
            raise ServerError("nats-server does not stop on SIGSTOP")

    async def thaw(self) -> None:
        """Lets a frozen server go on."""
        process = self._send(signal.SIGCONT)
        if not await until(lambda: not process.stopped or process.over, _SIGNAL_TIMEOUT):
            raise ServerError("nats-server does not go on after SIGCONT")

    async def reload(self, config: str | None = None) -> None:
        """Has the server read its configuration again, with a new ``config`` text if given; returns when it has."""
        if config is not None:
            self.settings = replace(self.settings, text=config)
        self.store.write(self.settings)
        self._send(signal.SIGHUP)
        if not await until(self._reload_is_over, _SIGNAL_TIMEOUT):
            raise ServerError(f"nats-server does not reload its configuration\n{self.store.tail()}")

    def _reload_is_over(self) -> bool:
        tail = self.store.tail()
        if "Failed to reload" in tail:
            raise ServerError(f"nats-server refuses the configuration\n{tail}")
        return "Reloaded server configuration" in tail

    def lame_duck(self) -> None:
        """Has the server send its clients away and then end (SIGUSR2); returns at once.

        In its grace period, 10 seconds unless configured, such a server does not react to the SIGTERM of ``stop()``.
        """
        if self._guard is not None:
            self._guard.dismiss()
        self._send(signal.SIGUSR2)

    async def wait(self) -> None:
        """Returns when the process is no more, and no watchdog brings it back.

        Raises:
            CrashLoop: the watchdog gave up.
        """
        while self.running or self._is_guarded:  # noqa: ASYNC110 - the end of a process is polled, so that any event loop will do
            await asyncio.sleep(TICK * 10)
        if self._guard is not None and self._guard.failure is not None:
            raise self._guard.failure

    @property
    def _is_guarded(self) -> bool:
        return self._guard is not None and self._guard.on_duty

    @property
    def obituary(self) -> str:
        """How the process ended, with the end of its log."""
        code = None if self._process is None else self._process.returncode
        how = f"by {signal.Signals(-code).name}" if code is not None and code < 0 else f"with {code}"
        return f"It ended {how}.\nThe end of its log:\n{self.store.tail()}"

    def _send(self, number: signal.Signals) -> Process:
        process = self._process
        if process is None or not process.running:
            raise ServerError(f"no nats-server is running to take {number.name}")
        process.send(number)
        return process
