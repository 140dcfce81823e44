"""Where frames go: a socket, plain or TLS, or a websocket."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from broker.backends.nats.outbound import Pipe


class NoPipe(Pipe):
    """Nowhere: there is no connection."""

    def __init__(self) -> None:
        self.write = lambda _: None
        self.buffered = lambda: 0


class SocketPipe(Pipe):
    """A socket's own transport.

    Between the end of a socket and the moment its reader hears of it, frames are lost like those that were on it:
    asyncio's transports take no notice of them, uvloop's would raise, and that in whoever publishes.
    """

    def __init__(self, transport: asyncio.WriteTransport) -> None:
        self._transport = transport
        self.write = self._write
        self.buffered = transport.get_write_buffer_size

    def _write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)


class WebPipe(Pipe):
    """A websocket, whose bytes leave when its ``drain()`` is awaited: one task does that while there are any."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._waiting = 0
        self._task: asyncio.Task[None] | None = None
        self.write = self._write
        self.buffered = lambda: self._waiting

    def _write(self, data: bytes) -> None:
        self._transport.write(data)
        self._waiting += len(data)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        while self._waiting:
            size = self._waiting
            with suppress(Exception):  # a broken websocket is noticed by whoever reads from it
                await self._transport.drain()
            self._waiting -= size
