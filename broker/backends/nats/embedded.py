"""``embedded://``: a NATS server of our own, started for one backend and stopped with it.

``embedded:///var/lib/game`` keeps what is stored there; ``embedded://`` alone uses a directory that goes with it. One
that dies is brought back.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from broker.backends.nats import addresses
from broker.contracts.errors import InvalidOption

if TYPE_CHECKING:
    from broker.contracts.options import ConnectOptions


class Server(Protocol):
    """What we need of ``broker.server.NatsServer``, which is imported only when somebody asks for one."""

    url: str

    @abstractmethod
    async def start(self) -> None:
        """Return when it accepts connections."""

    @abstractmethod
    async def stop(self) -> None:
        """Return when its process is gone."""


async def embedded_server(options: ConnectOptions) -> tuple[Server, ConnectOptions]:
    """A running server on the directory of the URL, and the options that reach it.

    Raises:
        InvalidOption: the directory is not absolute: it would depend on where the process was started.
        ServerError: there is no nats-server, or it did not start.
    """
    directory = options.url.removeprefix(addresses.EMBEDDED)
    if directory and not Path(directory).is_absolute():
        raise InvalidOption(
            "url: embedded:// takes an absolute directory, as in embedded:///var/lib/game, or none", option="url"
        )
    module = import_module("broker.server")
    # Nobody else knows of it, so nobody else could bring it back.
    store = Path(directory) if directory else None
    server: Server = module.NatsServer(store_dir=store, watchdog=module.Watchdog())
    await server.start()
    return server, replace(options, url=server.url)
