"""Chooses free ports."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack

from broker.server.errors import ServerError

# Below the ephemeral ranges of Linux (32768-) and macOS (49152-): while a server is down, the system may give an
# ephemeral port to any outgoing connection, and a client that reconnects to one on loopback can even meet itself.
_RANGE = range(20000, 32000)
_TRIES = 500


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
