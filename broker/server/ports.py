"""Chooses free ports."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

from broker.server.errors import ServerError

if TYPE_CHECKING:
    from collections.abc import Iterable

# Below the ephemeral ranges of Linux (32768-) and macOS (49152-): while a server is down, the system may give an
# ephemeral port to any outgoing connection, and a client that reconnects to one on loopback can even meet itself.
_RANGE = range(20000, 32000)
_TRIES = 500


def check_ports(ports: Iterable[int], host: str) -> None:
    """Refuses ports that somebody listens on.

    Raises:
        ServerError: it names the port.
    """
    for port in ports:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that was left a moment ago is free
            try:
                sock.bind((host, port))
            except (OSError, OverflowError) as exc:
                told = f"cannot listen on port {port} of {host} ({exc}): name another with --port, 0 for any free one"
                raise ServerError(told) from exc


def free_ports(count: int, host: str) -> list[int]:
    """Returns different ports nobody listens on right now; the caller tries again when one is taken meanwhile."""
    chosen: list[int] = []
    with ExitStack() as held:  # all of them are bound until the last is found
        for port in random.sample(_RANGE, _TRIES):
            if len(chosen) == count:
                break
            sock = held.enter_context(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET))
            try:
                sock.bind((host, port))
            except OSError:
                continue
            chosen.append(port)
    if len(chosen) < count:
        raise ServerError(f"no {count} free ports between {_RANGE.start} and {_RANGE.stop - 1} on {host}")
    return chosen
