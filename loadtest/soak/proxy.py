"""A TCP proxy that cuts and stalls, as a process of its own so that it is no part of what is measured.

It prints its port, takes one order per line and ends when its standard input does.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import socket
import struct
import subprocess
import sys
from typing import TYPE_CHECKING, Final, Self, cast

import uvloop

if TYPE_CHECKING:
    from types import TracebackType

_ONE: Final = "one"
_ALL: Final = "all"
_STALL: Final = "stall"
_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER: closing sends RST, what was on its way is gone."""
_LAST_WORDS: Final = 5.0


class Proxy:
    """Starts the process and gives it orders; a context manager that ends it."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        command = [sys.executable, "-m", "loadtest.soak.proxy", "--to", str(port), "--host", host]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self.port = 0

    @property
    def url(self) -> str:
        """Where clients connect to be cut."""
        return f"nats://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        assert self._process.stdout is not None
        told = self._process.stdout.readline().strip()
        if not told:
            self._end()
            raise RuntimeError("the proxy did not start")
        self.port = int(told)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def cut_one(self) -> None:
        """Reset one connection, chosen at random, without a word."""
        self._order(_ONE)

    def cut_all(self) -> None:
        """Reset every connection."""
        self._order(_ALL)

    def stall(self, seconds: float) -> None:
        """Let nothing through for so long, then go on as if nothing had been."""
        self._order(f"{_STALL} {seconds}")

    def _order(self, words: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{words}\n")

    def _end(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(_LAST_WORDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


class _Side(asyncio.Protocol):
    """One half of a connection: what it reads goes to the other."""

    other: _Side | None = None
    transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio's.
        self.transport = cast("asyncio.Transport", transport)
        if self.other is None:
            self.transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.write(data)

    def pause_writing(self) -> None:
        if self.other is not None:
            self.other.read(on=False)

    def resume_writing(self) -> None:
        if self.other is not None:
            self.other.read(on=True)

    def connection_lost(self, _exc: Exception | None) -> None:
        if self.other is not None:
            self.other.cut()

    def read(self, *, on: bool) -> None:
        transport = self.transport
        if transport is not None and not transport.is_closing() and transport.is_reading() is not on:
            (transport.resume_reading if on else transport.pause_reading)()

    def cut(self, *, reset: bool = False) -> None:
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        if reset:
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        transport.abort()


class _Client(_Side):
    """The half that came to us; it fetches the other."""

    def __init__(self, relay: _Relay) -> None:
        self._relay = relay

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._relay.clients.add(self)
        self._dialing = asyncio.get_running_loop().create_task(self._dial())

    async def _dial(self) -> None:
        upstream = _Side()
        upstream.other = self
        try:
            await asyncio.get_running_loop().create_connection(lambda: upstream, self._relay.host, self._relay.port)
        except OSError:
            self.cut()
            return
        self.other = upstream
        if self.transport is None or self.transport.is_closing():
            upstream.cut()
        elif not self._relay.stalled:
            self.read(on=True)

    def connection_lost(self, exc: Exception | None) -> None:
        self._relay.clients.discard(self)
        super().connection_lost(exc)


class _Relay:
    """All connections, and what can be done to them."""

    def __init__(self, port: int, host: str) -> None:
        self.host = host
        self.port = port
        self.clients: set[_Client] = set()
        self.stalled = False

    def obey(self, words: list[str]) -> None:
        clients = list(self.clients)
        if words[0] == _STALL:
            self._flow(on=False)
            asyncio.get_running_loop().call_later(float(words[1]), lambda: self._flow(on=True))
            return
        for client in random.sample(clients, min(1, len(clients))) if words[0] == _ONE else clients:
            client.cut(reset=True)

    def _flow(self, *, on: bool) -> None:
        self.stalled = not on
        for client in self.clients:
            client.read(on=on)
            if client.other is not None:
                client.other.read(on=on)


async def _serve(port: int, host: str) -> None:
    loop = asyncio.get_running_loop()
    relay = _Relay(port, host)
    server = await loop.create_server(lambda: _Client(relay), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    orders = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    while line := await orders.readline():
        relay.obey(line.decode().split())
    server.close()


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.soak.proxy", description=__doc__)
    parser.add_argument("--to", type=int, required=True, help="port of the server behind it")
    parser.add_argument("--host", default="127.0.0.1", help="of the server behind it")
    given = parser.parse_args()
    uvloop.run(_serve(given.to, given.host))


if __name__ == "__main__":
    main()
