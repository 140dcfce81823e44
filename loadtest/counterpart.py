"""The other end of a core workload, as a process of its own on a raw socket, so that only the client is measured.

``count`` receives and counts, ``flood`` publishes when told to, ``echo`` answers requests. Each says ``ready`` and
ends when its standard input does, so none outlives the process that started it.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Final, Self

from loadtest.raw import CRLF, PONG, RawConnection, pub

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

READY: Final = "ready"
GO: Final = "go"
REPORT: Final = "report"
_MARK: Final = b"MSG "
_BORDER: Final = len(_MARK) - 1
"""Bytes at a cut that may hold the beginning or the end of a mark, never a whole one."""
_MESSAGES: Final = frozenset((b"MSG", b"HMSG"))
_PING: Final = b"PING\r\n"
_PER_WRITE: Final = 500
_QUIET: Final = 1.0
"""Seconds without a message after which the counter says what it has."""
_ANSWER_LIMIT: Final = 30.0


class OtherProcess:
    """Starts a command that says ``ready`` and speaks with it line by line; a context manager that ends it."""

    def __init__(self, command: Sequence[str], *, inherited: Sequence[int] = ()) -> None:
        self._command = command
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=inherited
        )

    def __enter__(self) -> Self:
        if self._read() != READY:
            self._end()
            raise RuntimeError(f"did not start: {' '.join(self._command)}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def go(self) -> None:
        """Have it begin; returns at once."""
        self.say(GO)

    def told(self) -> dict[str, Any]:
        """The JSON line it says when it is done; nothing when it died or took too long."""
        told: dict[str, Any] = json.loads(self._read() or "{}")
        return told

    def say(self, word: str) -> None:
        """A line to it."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()

    def _read(self) -> str:
        assert self._process.stdout is not None
        killer = threading.Timer(_ANSWER_LIMIT, self._process.kill)
        killer.start()
        try:
            return self._process.stdout.readline().strip()
        finally:
            killer.cancel()

    def _end(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


class Counterpart(OtherProcess):
    """One of the roles below."""

    def __init__(self, role: str, *, url: str, subject: str, count: int, size: int) -> None:
        command = [sys.executable, "-m", "loadtest.counterpart", role, "--url", url, "--subject", subject]
        super().__init__([*command, "--count", str(count), "--size", str(size)])

    def counted(self) -> int:
        """How many messages the counter received in all."""
        self.say(REPORT)
        return int(self._read() or -1)


class Tally:
    """Counts messages in a byte stream by their first word, however the stream is cut. Bodies must not hold it."""

    def __init__(self) -> None:
        self.count = 0
        self._rest = b""

    def feed(self, chunk: bytes) -> None:
        """Take what arrived."""
        border = self._rest + chunk[:_BORDER]
        self.count += border.count(_MARK) + chunk.count(_MARK)
        self._rest = (self._rest + chunk[-_BORDER:])[-_BORDER:]


def answers(data: bytes) -> tuple[list[bytes], bytes]:
    """The frames that answer every whole request in the bytes with its own body, and the bytes left over."""
    replies: list[bytes] = []
    position = 0
    while (stop := data.find(CRLF, position)) >= 0:
        words = data[position:stop].split()
        if words[0] in _MESSAGES:
            size = int(words[-1])
            after = stop + 2 + size + 2
            if after > len(data):
                break
            block = int(words[-2]) if words[0] == b"HMSG" else 0
            replies.append(b"PUB %b %d\r\n%b" % (words[3], size - block, data[stop + 2 + block : after]))
            position = after
        else:
            if words[0] == b"PING":
                replies.append(PONG)
            position = stop + 2
    return replies, data[position:]


def _count(connection: RawConnection, told: queue.Queue[str], wanted: int) -> None:
    tally = Tally()
    last = time.monotonic()

    def speak() -> None:
        told.get()
        while tally.count < wanted and time.monotonic() - last < _QUIET:
            time.sleep(0.002)
        _say(str(tally.count))

    threading.Thread(target=speak, daemon=True).start()
    while True:
        chunk = connection.receive()
        tally.feed(chunk)
        last = time.monotonic()
        if chunk.endswith(_PING):
            connection.send(PONG)


def _flood(connection: RawConnection, told: queue.Queue[str], subject: str, count: int, body: bytes) -> None:
    frame = pub(subject, body)
    chunk = frame * _PER_WRITE
    told.get()
    for _ in range(count // _PER_WRITE):
        connection.send(chunk)
    connection.send(frame * (count % _PER_WRITE))
    connection.sync()
    told.get()


def _echo(connection: RawConnection) -> None:
    rest = b""
    while True:
        replies, rest = answers(rest + connection.receive())
        if replies:
            connection.send(b"".join(replies))


def _say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def _listen(told: queue.Queue[str]) -> None:
    """Pass on what the parent says; without a parent there is nothing to do here any more."""
    for line in sys.stdin:
        told.put(line.strip())
    os._exit(0)


def main() -> None:
    """Run one role until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.counterpart")
    parser.add_argument("role", choices=["count", "flood", "echo"])
    parser.add_argument("--url", required=True)
    parser.add_argument("--subject", required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--size", type=int, required=True)
    given = parser.parse_args()
    told: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=[told], daemon=True).start()
    with RawConnection(given.url, timeout=None) as connection:
        if given.role == "flood":
            _say(READY)
            _flood(connection, told, given.subject, given.count, b"x" * given.size)
            return
        connection.subscribe(given.subject)
        _say(READY)
        if given.role == "count":
            _count(connection, told, given.count)
        else:
            _echo(connection)


if __name__ == "__main__":
    main()
