"""How a process that begins in the middle of an outage comes into the game."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, TypeVar

from broker import ApiError, ConnectError, ConnectionLost, NoResponders, NoStream, RequestTimeout, StreamBroker
from broker.exactly_once import DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

log = logging.getLogger("loadtest.chaos")

_OUTAGES: Final = (ConnectError, ConnectionLost, RequestTimeout, NoResponders, ApiError, NoStream, DatabaseUnavailable)
_PAUSE: Final = 0.1


async def patiently(call: Callable[[], Awaitable[T]]) -> T:
    """What it returns, made again for as long as a server is away; who started this process knows when to give up."""
    while True:
        try:
            return await call()
        except _OUTAGES as exc:
            log.warning("waits for its servers: %s", exc)
            await asyncio.sleep(_PAUSE)


async def joined(url: str | None, name: str) -> StreamBroker:
    """A broker, as soon as there is a server."""

    async def connect() -> StreamBroker:
        return await StreamBroker.connect(url, name=name)

    return await patiently(connect)
