"""From ``connect(...)`` to a broker: await it, or ``async with`` it."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING, Final, Generic, NoReturn, Protocol, TypeVar

from broker.backends import open_backend

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator
    from types import TracebackType

    from broker.contracts.backend import CoreBackend
    from broker.contracts.options import ConnectOptions


class Endable(Protocol):
    """What leaving ``async with`` does to a broker."""

    async def drain(self) -> None:
        """Finish what runs, then close."""

    async def aclose(self) -> None:
        """Close now."""


B = TypeVar("B", bound=Endable)

_NOT_YET: Final = (
    "not connected yet: `broker = await Broker.connect(...)` or `async with Broker.connect(...) as broker`"
)
DEFAULT_URL: Final = "nats://127.0.0.1:4222"


def url_or_default(url: str | None) -> str:
    """The URL given, else ``NATS_URL``, else a server on this machine."""
    return url or os.environ.get("NATS_URL") or DEFAULT_URL


async def connected_backend(options: ConnectOptions) -> CoreBackend:
    """The backend for the URL, with telemetry around it when an OpenTelemetry SDK was configured in this process."""
    backend = await open_backend(options)
    if "opentelemetry" not in sys.modules:
        return backend
    from broker import telemetry  # noqa: PLC0415 - only for processes that use OpenTelemetry at all

    return telemetry.trace_backend(backend) if telemetry.configured() else backend


async def leave(broker: Endable, error: BaseException | None) -> None:
    """The end of ``async with``: left normally or cancelled (SIGINT) it drains, with an error it closes at once."""
    if error is None or isinstance(error, asyncio.CancelledError):
        await broker.drain()
    else:
        await broker.aclose()


def address_of(options: ConnectOptions) -> str | None:
    """Servers and user without any secret, the same for every way to write them; ``None`` for a twin in memory.

    A token is a secret, so all tokens are one user.
    """
    parts = []
    for url in options.url.split(","):
        scheme, separator, rest = url.strip().rpartition("://")
        user, _, host = rest.rpartition("@")
        if scheme == "memory":
            return None
        named = f"{scheme}{separator}" if scheme == "embedded" else ""
        name, colon, _ = user.partition(":")  # without a colon it is a token
        parts.append(f"{name if colon else ''}@{named}{host.rstrip('/')}")
    return ",".join([*sorted(parts), options.user or "", options.creds or ""])


class Connecting(Generic[B]):
    """A connection about to be made. ``await`` it for a broker you close yourself, or ``async with`` it."""

    def __init__(self, start: Callable[[], Awaitable[B]]) -> None:
        self._start = start
        self._broker: B | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {_NOT_YET}>"

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):  # copy and pickle ask for these, and must hear the usual answer
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
        raise AttributeError(f"no {name!r} here: {_NOT_YET}", name=name, obj=self)

    def __await__(self) -> Generator[object, None, B]:
        return self._start().__await__()

    async def __aenter__(self) -> B:
        self._broker = await self._start()
        return self._broker

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        broker, self._broker = self._broker, None
        if broker is not None:
            await leave(broker, error)
