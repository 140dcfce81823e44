"""As much of the NATS protocol as it takes to see that a server answers, over a raw socket.

No client library: the probe must not depend on what it is there to test.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from broker.server.errors import ServerError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

_HTTP_OK = b"200"


class Wire:
    """One connection that can make JSON requests.

    Attributes:
        info: what the server said first about itself.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.info: dict[str, Any] = {}
        self._sock = sock
        self._rest = b""
        self._inbox = f"_INBOX.{secrets.token_hex(8)}"

    async def greet(self) -> None:
        """Takes the server's INFO."""
        _, _, told = (await self._line()).partition(b" ")
        self.info = json.loads(told)

    def closed_to(self, login: Mapping[str, str] | None) -> bool:
        """Whether the server wants TLS, or a login nobody gave, so that it will answer nothing more."""
        return bool(self.info.get("tls_required") or (self.info.get("auth_required") and not login))

    async def log_in(self, login: Mapping[str, str] | None) -> None:
        """Opens the conversation."""
        options = {"verbose": False, "pedantic": False, "lang": "python", "version": "0", "protocol": 1}
        await self._send(f"CONNECT {json.dumps({**options, **(login or {})})}\r\nSUB {self._inbox} 1\r\n".encode())

    async def request(self, subject: str, body: object = None) -> dict[str, Any]:
        """Returns the reply to one request; one that is refused raises ServerError."""
        payload = b"" if body is None else json.dumps(body).encode()
        await self._send(f"PUB {subject} {self._inbox} {len(payload)}\r\n".encode() + payload + b"\r\n")
        while True:
            line = await self._line()
            if line.startswith(b"MSG "):
                reply = await self._take(int(line.rsplit(b" ", 1)[1]) + 2)
                answer: dict[str, Any] = json.loads(reply)
                return answer
            if line.startswith(b"PING"):
                await self._send(b"PONG\r\n")
            elif line.startswith(b"-ERR"):
                raise ServerError(f"nats-server refuses {subject}: {line[5:].decode(errors='replace')}")

    async def _send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._sock, data)

    async def _line(self) -> bytes:
        while b"\r\n" not in self._rest:
            await self._more()
        line, _, self._rest = self._rest.partition(b"\r\n")
        return line

    async def _take(self, size: int) -> bytes:
        while len(self._rest) < size:
            await self._more()
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken

    async def _more(self) -> None:
        data = await asyncio.get_running_loop().sock_recv(self._sock, 65536)
        if not data:
            raise ConnectionResetError("nats-server closed the connection")
        self._rest += data


@asynccontextmanager
async def _connected(host: str, port: int, timeout: float) -> AsyncIterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        async with asyncio.timeout(timeout):
            await asyncio.get_running_loop().sock_connect(sock, (host, port))
            yield sock


@asynccontextmanager
async def dial(host: str, port: int, *, timeout: float) -> AsyncIterator[Wire]:
    """Yields a connection whose INFO has come; the timeout is for all that is done with it."""
    async with _connected(host, port, timeout) as sock:
        wire = Wire(sock)
        await wire.greet()
        yield wire


async def shake_hands(host: str, port: int, *, timeout: float) -> None:
    """Begins TLS and hangs up; returns when the other side speaks it, whoever it is and whatever it wants of us."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    async with asyncio.timeout(timeout):
        try:
            transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, host, port, ssl=context)
        except ssl.SSLError as failed:
            if failed.reason == "WRONG_VERSION_NUMBER":
                raise
        else:
            transport.abort()


async def http_get(host: str, port: int, page: str, *, timeout: float) -> tuple[bool, str]:
    """Returns whether the answer is 200, and its body."""
    async with _connected(host, port, timeout) as sock:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(sock, f"GET {page} HTTP/1.0\r\n\r\n".encode())
        answer = b""
        while chunk := await loop.sock_recv(sock, 65536):
            answer += chunk
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.split(b" ")[1:2] == [_HTTP_OK], body.decode(errors="replace").strip()
