"""A NATS connection on a blocking socket: neutral ground, faster than any client that is measured against it."""

from __future__ import annotations

import json
import secrets
import socket
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

CRLF: Final = b"\r\n"
PONG: Final = b"PONG\r\n"
_CONNECT: Final = b'CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true,"protocol":1}\r\n'
_READ: Final = 1 << 20
_NO_RESPONDERS: Final = b" 503"


class Received(NamedTuple):
    """A message as it came: ``reply`` is empty when the sender waits for none, ``block`` without headers."""

    subject: bytes
    reply: bytes
    block: bytes
    data: bytes


def pub(subject: str, data: bytes, reply: str = "") -> bytes:
    """A PUB frame."""
    return f"PUB {subject} {reply} {len(data)}\r\n".encode() + data + CRLF


def hpub(subject: str, name: str, value: str, data: bytes, reply: str = "") -> bytes:
    """An HPUB frame with one header."""
    block = f"NATS/1.0\r\n{name}: {value}\r\n\r\n".encode()
    return f"HPUB {subject} {reply} {len(block)} {len(block) + len(data)}\r\n".encode() + block + data + CRLF


class RawConnection:
    """Connected when constructed; a context manager that closes."""

    def __init__(self, url: str, *, timeout: float | None = 30.0) -> None:
        target = urlsplit(url)
        self._socket = socket.create_connection((target.hostname or "127.0.0.1", target.port or 4222), timeout)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._pending = b""
        # One buffer for good: a fresh mebibyte for every read would cost more than the read.
        self._buffer = bytearray(_READ)
        self._view = memoryview(self._buffer)
        self._inbox = secrets.token_hex(8)
        self._sid = 1
        self._line()
        self.send(_CONNECT)
        self.sync()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Write all of it."""
        self._socket.sendall(data)

    def receive(self) -> bytes:
        """Whatever is there, at least one byte.

        Raises:
            ConnectionError: the server hung up.
        """
        size = self._socket.recv_into(self._buffer)
        if not size:
            raise ConnectionError("the server closed the connection")
        return bytes(self._view[:size])

    def subscribe(self, subject: str) -> None:
        """Active on the server when it returns."""
        self._sid += 1
        self.send(f"SUB {subject} {self._sid}\r\n".encode())
        self.sync()

    def sync(self) -> None:
        """Return when the server has processed everything sent before. Messages that arrive meanwhile are dropped."""
        self.send(b"PING\r\n")
        while (line := self._line()) != b"PONG":
            self._message(line)

    def request(self, subject: str, body: Any = None) -> dict[str, Any]:
        """The JSON reply to a JSON request; for the JetStream API.

        Raises:
            ConnectionError: nobody answers there.
        """
        payload = b"" if body is None else json.dumps(body).encode()
        answer = self.answer_to(lambda reply: pub(subject, payload, reply))
        if _NO_RESPONDERS in answer.block[:16]:
            raise ConnectionError(f"nobody answers on {subject}")
        told: dict[str, Any] = json.loads(answer.data)
        return told

    def answer_to(self, frame: Callable[[str], bytes]) -> Received:
        """Send the frame made for a fresh reply subject and return what comes back there."""
        # A number of its own: the server forgets the one before after its reply has left, which may be too late.
        self._sid += 1
        reply = f"_INBOX.{self._inbox}.{self._sid}"
        self.send(f"SUB {reply} {self._sid}\r\nUNSUB {self._sid} 1\r\n".encode() + frame(reply))
        while True:
            message = self._message(self._line())
            if message is not None and message.subject == reply.encode():
                return message

    def _message(self, line: bytes) -> Received | None:
        """The message a control line announces; ``None`` when it announces none."""
        if line == b"PING":
            self.send(PONG)
        if line.startswith(b"-ERR"):
            raise ConnectionError(line.decode())
        if not line.startswith((b"MSG ", b"HMSG ")):
            return None
        words = line.split()
        headed = line.startswith(b"H")
        reply = words[3] if len(words) == 5 + headed else b""
        block = self._exactly(int(words[-2])) if headed else b""
        data = self._exactly(int(words[-1]) - len(block))
        self._exactly(len(CRLF))
        return Received(words[1], reply, block, data)

    def _line(self) -> bytes:
        while CRLF not in self._pending:
            self._pending += self.receive()
        line, _, self._pending = self._pending.partition(CRLF)
        return line

    def _exactly(self, size: int) -> bytes:
        while len(self._pending) < size:
            self._pending += self.receive()
        data, self._pending = self._pending[:size], self._pending[size:]
        return data
