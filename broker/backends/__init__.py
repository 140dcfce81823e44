"""Backends by URL scheme, each imported on first use. A backend is one folder with ``open_backend(options)``."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

from broker.contracts.errors import InvalidOption

if TYPE_CHECKING:
    from broker.contracts.backend import CoreBackend
    from broker.contracts.options import ConnectOptions

SCHEMES: Final = {
    "nats": "nats",
    "tls": "nats",
    "ws": "nats",
    "wss": "nats",
    "embedded": "nats",
    "memory": "memory",
}
"""URL scheme -> folder. ``embedded`` is NATS on a server of our own."""


def scheme_of(url: str) -> str:
    """The scheme of a URL (of the first one in a list); ``host:port`` alone means ``nats``.

    Raises:
        InvalidOption: no backend has that scheme.
    """
    scheme, separator, _ = url.partition("://")
    if not separator:
        return "nats"
    if scheme not in SCHEMES:
        known = ", ".join(f"{each}://" for each in SCHEMES)
        raise InvalidOption(f"no backend for {scheme}://; there are {known}", option="url")
    return scheme


async def open_backend(options: ConnectOptions) -> CoreBackend:
    """A connected backend for ``options.url``.

    Raises:
        ConnectError: nobody answered within ``options.connect_timeout``.
        Unauthorized: the server refused the credentials.
        InvalidOption: no backend has that scheme.
    """
    module = import_module(f"broker.backends.{SCHEMES[scheme_of(options.url)]}")
    backend: CoreBackend = await module.open_backend(options)
    return backend
