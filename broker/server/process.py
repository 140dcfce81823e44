"""The program's side of a guardian: start, signal, observe and end one nats-server from any event loop.

Nothing here registers with an event loop: state is read by polling a socket, so a server started under one loop can
be stopped under another, with uvloop or asyncio alike, and a cancelled wait leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from broker.server.errors import InUse, ServerError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

TICK = 0.005
_KILL_DEADLINE = 5.0
_SCRIPT = Path(__file__).with_name("guardian.py")


async def until(condition: Callable[[], bool], timeout: float) -> bool:
    """Returns whether the condition came true in time."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() >= deadline:
            return False
        await asyncio.sleep(TICK)
    return True


def try_lock(path: Path) -> int | None:
    """Returns the descriptor that holds the lock, or None while someone else holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as failed:
        os.close(descriptor)
        if isinstance(failed, BlockingIOError):
            return None
        raise
    return descriptor


class Process:
    """One guardian and, after ``launch()``, the nats-server it guards.

    The guardian and the server share the lock on the store, and nobody else does: a locked store has a live server.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path,
        lock: Path,
        temporary: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.pid: int | None = None
        self.returncode: int | None = None
        self.stopped = False
        self._launched = False
        self._rest = b""
        self._lock = lock
        self._temporary = temporary
        self._control, theirs = socket.socketpair()
        self._control.setblocking(False)
        with theirs, log.open("ab") as output:
            try:
                self._guardian = self._start_guardian(theirs, command, output.fileno(), env)
            except BaseException:
                self._control.close()
                raise
        self._connected = True

    def _start_guardian(
        self, theirs: socket.socket, command: Sequence[str], output: int, env: Mapping[str, str] | None
    ) -> subprocess.Popen[bytes]:
        held = try_lock(self._lock)
        if held is None:
            raise InUse(f"another nats-server uses the store {self._lock.parent}")
        try:
            arguments = [str(theirs.fileno()), str(os.getpid()), str(self._temporary or ""), *command]
            return subprocess.Popen(  # noqa: S603 - our own script, run by our own interpreter
                [sys.executable, "-I", "-S", str(_SCRIPT), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **(env or {})},
                pass_fds=(theirs.fileno(), held),
                start_new_session=True,  # the terminal's Ctrl-C is for the program, not for its server
            )
        finally:
            os.close(held)

    def launch(self) -> None:
        """Starts the server; ``pid`` follows."""
        self.pid = self.returncode = None
        self.stopped = False
        self._launched = True
        self.send(0)

    def send(self, order: int) -> None:
        """Hands a signal to the server."""
        with contextlib.suppress(OSError):  # a dead guardian is noticed by poll()
            self._control.send(bytes([order]))

    def poll(self) -> None:
        """Takes in what the guardian has said so far."""
        while self._connected:
            try:
                heard = self._control.recv(4096)
            except BlockingIOError:
                return
            except OSError:
                heard = b""
            if not heard:
                self._connected = False
                self._end_unguarded()
            *lines, self._rest = (self._rest + heard).split(b"\n")
            for line in lines:
                self._hear(line.decode())

    def _hear(self, line: str) -> None:
        word, _, number = line.partition(" ")
        if word == "pid":
            self.pid = int(number)
        elif word == "exit":
            self.returncode = int(number)
        self.stopped = word == "stopped"

    def _end_unguarded(self) -> None:
        """Ends a server whose guardian was killed; the lock tells whether the pid is still that server's."""
        if not self._launched or self.returncode is not None:
            return
        self.returncode = -signal.SIGKILL
        held = try_lock(self._lock)
        if held is not None:
            os.close(held)
        elif self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    @property
    def guarded(self) -> bool:
        """Whether the guardian lives, so that ``launch()`` can be called."""
        self.poll()
        return self._connected

    @property
    def over(self) -> bool:
        """Whether there is no server: not launched yet, or ended."""
        self.poll()
        return not self._launched or self.returncode is not None

    @property
    def running(self) -> bool:
        """Whether the server process exists."""
        return not self.over and self.pid is not None

    async def end_server(self, timeout: float) -> None:
        """Ends the server with SIGTERM, after the timeout with SIGKILL; the guardian stays for another launch."""
        if self.over:
            return
        self.send(signal.SIGTERM)
        if not await until(lambda: self.over, timeout):
            await self.kill_server()

    async def kill_server(self) -> None:
        """Ends the server with SIGKILL."""
        self.send(signal.SIGKILL)
        if not await until(lambda: self.over, _KILL_DEADLINE):
            raise ServerError(f"nats-server (pid {self.pid}) does not end, not even by SIGKILL")

    async def close(self, timeout: float) -> None:
        """Ends server and guardian, and with it the temporary directory; cancelled, they end in the background."""
        try:
            await self.end_server(timeout)
            self._hang_up()
            if not await until(self._guardian_is_gone, _KILL_DEADLINE):
                self._guardian.kill()
                await until(self._guardian_is_gone, _KILL_DEADLINE)
        except BaseException:
            self._abandon()
            raise

    def _guardian_is_gone(self) -> bool:
        return self._guardian.poll() is not None

    def _hang_up(self) -> None:
        self._connected = False
        with contextlib.suppress(OSError):
            # close() alone is not heard while a forked copy of this program holds the socket too.
            self._control.shutdown(socket.SHUT_RDWR)
        self._control.close()
        self.returncode = self.returncode if self.returncode is not None else -signal.SIGKILL

    def _abandon(self) -> None:
        self.send(signal.SIGKILL)
        self._hang_up()
        threading.Thread(target=self._guardian.wait, daemon=True).start()
