"""The guardian: a tiny process between a program and its nats-server, so that the server never outlives the program.

Run as a file, isolated and without site packages: ``python -I -S guardian.py FD PARENT TEMPORARY COMMAND...``.

* The guardian is the server's parent: it signals a child it has not reaped, so a re-used pid can never be hit.
* The program holds the other end of socket FD. When it closes, by ``stop()``, exit, crash or SIGKILL alike, the
  guardian ends the server (SIGTERM, SIGKILL after a grace), removes the directory TEMPORARY ("" for none) and exits.
* A forked copy of the program may hold that end too, so PARENT, the program's pid, is watched as well.
* A guardian that is killed itself takes the server along on Linux (PR_SET_PDEATHSIG, safe here: it is bound to the
  one thread of this process). Elsewhere the program notices and ends the server.

The program writes single bytes: 0 starts the server, any other byte is the number of a signal for it.
The guardian writes lines: ``pid N``, ``stopped``, ``continued``, ``exit CODE`` (negative: the signal that ended it).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import time

try:
    import ctypes
except ImportError:  # a Python built without libffi: the other guards still hold
    ctypes = None  # type: ignore[assignment]  # the name stands for "not there"

GRACE = 1.0  # seconds between SIGTERM and SIGKILL when the program is gone
TICK = 0.25  # seconds between looks at the program's pid
PR_SET_PDEATHSIG = 1
CAUGHT = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Guardian:
    """Starts, signals and reaps one nats-server for the program at the other end of the socket."""

    def __init__(self, control: socket.socket, parent: int, command: list[str]) -> None:
        self.control = control
        self.parent = parent
        self.command = command
        self.child = 0
        self.wake = self._wake_on_signals()

    @staticmethod
    def _wake_on_signals() -> int:
        """Returns a descriptor that yields the number of each caught signal."""
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in CAUGHT:
            # A handler, not SIG_IGN: exec resets handlers, but nats-server would inherit "ignored".
            signal.signal(number, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        return reader

    def watch(self) -> None:
        """Returns when the program is gone, has hung up, or someone asked the guardian to end."""
        while os.getppid() == self.parent:
            ready, _, _ = select.select([self.control.fileno(), self.wake], [], [], TICK)
            if self.wake in ready and signal.SIGTERM in os.read(self.wake, 256):
                return
            if self.control.fileno() in ready and not self._obey():
                return
            self._report()

    def _obey(self) -> bool:
        try:
            orders = self.control.recv(256)
        except OSError:
            orders = b""
        for order in orders:
            if self.child and order:
                os.kill(self.child, order)
            elif not self.child and not order:
                self._spawn()
        return bool(orders)

    def _spawn(self) -> None:
        # Blocked until the child has default handlers: a SIGTERM in between must end it, not be swallowed.
        signal.pthread_sigmask(signal.SIG_BLOCK, CAUGHT)
        guardian = os.getpid()
        self.child = os.fork()
        if not self.child:
            become(self.command, guardian)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        self._tell(f"pid {self.child}")

    def _report(self) -> None:
        while self.child:
            pid, status = os.waitpid(self.child, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
            if not pid:
                return
            if os.WIFSTOPPED(status):
                self._tell("stopped")
            elif os.WIFCONTINUED(status):
                self._tell("continued")
            else:
                self.child = 0
                self._tell(f"exit {os.waitstatus_to_exitcode(status)}")

    def _tell(self, line: str) -> None:
        with contextlib.suppress(OSError):  # the program may be gone; watch() sees that itself
            self.control.sendall(f"{line}\n".encode())

    def finish(self) -> None:
        """Ends the server for good."""
        deadline = time.monotonic() + GRACE
        if self.child:
            os.kill(self.child, signal.SIGTERM)
        while self.child and time.monotonic() < deadline:
            self._report()
            time.sleep(0.01)
        if self.child:
            os.kill(self.child, signal.SIGKILL)
            os.waitpid(self.child, 0)


def become(command: list[str], guardian: int) -> None:
    """Turns the forked child into the server; never returns."""
    try:
        if sys.platform == "linux" and ctypes is not None:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guardian:  # killed before the line above took effect
            os._exit(1)
        for number in (*CAUGHT, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execv(command[0], command)  # noqa: S606 - an argument list from the program that started this guardian
    except OSError as failed:
        sys.stderr.write(f"{command[0]} cannot be run: {failed}\n")
        sys.stderr.flush()
    finally:
        os._exit(127)


def main(descriptor: str, parent: str, temporary: str, *command: str) -> None:
    """Guards until the program is gone, then leaves nothing behind."""
    os.set_inheritable(int(descriptor), False)
    guardian = Guardian(socket.socket(fileno=int(descriptor)), int(parent), list(command))
    try:
        guardian.watch()
    finally:
        guardian.finish()
        if temporary:
            import shutil  # noqa: PLC0415 - needed once, at the end; the start has to be quick

            shutil.rmtree(temporary, ignore_errors=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
