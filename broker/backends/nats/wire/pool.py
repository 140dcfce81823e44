"""The servers we know, which of them is next, and how long to wait before it."""

from __future__ import annotations

import ipaddress
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from broker.backends.nats.patience import wait_before

if TYPE_CHECKING:
    from collections.abc import Iterable

_STEADY: Final = 2.0
"""Seconds after which a connection was a good one."""
_MOST: Final = 256
"""Servers learned from others at most."""


@dataclass(slots=True, eq=False)
class Server:
    """One address.

    Attributes:
        tls_name: what its certificate must be for.
        given: whether the user named it; others come and go as the cluster says.
        failures: tries in a row that failed.
        reached_at: where a connection to it last led, so that its name and its address are not two servers.
    """

    host: str
    port: int
    tls_name: str
    given: bool
    failures: int = 0
    reached_at: tuple[str, int] | None = None

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Pool:
    """Given servers for ever, and those the server we are connected to knows."""

    def __init__(self, urls: Iterable[str]) -> None:
        self._servers: dict[tuple[str, int], Server] = {}
        self._left: Server | None = None
        self._tries = 0
        self._since = 0.0
        for url in urls:
            split = urlsplit(url)
            host, port = split.hostname or "", split.port or 0
            self._servers[host, port] = Server(host, port, host, given=True)

    def __len__(self) -> int:
        return len(self._servers)

    def shuffled(self) -> list[Server]:
        """All of them, in a random order, so that many clients spread over a cluster."""
        servers = list(self._servers.values())
        random.shuffle(servers)
        return servers

    def learn(self, urls: Iterable[str], through: Server, reached_at: tuple[str, int] | None = None) -> None:
        """Know the servers that ``through`` told of, and forget those it does not tell of any more.

        A server known by its address only has to show a certificate for the name that led to it. The address that a
        given name led to (``reached_at``, of ``through``) is no other server.
        """
        through.reached_at = reached_at
        named = {each.reached_at for each in self._servers.values() if each.given and each.reached_at}
        named -= {place for place, each in self._servers.items() if each.given}
        name = through.tls_name
        told: dict[tuple[str, int], Server] = {}
        for url in urls:
            place = _place(url)
            if place is not None and place not in named and len(told) < _MOST:
                tls_name = name if _is_address(place[0]) and not _is_address(name) else place[0]
                told[place] = self._servers.get(place) or Server(*place, tls_name, given=False)
        if told:
            kept = {place: each for place, each in self._servers.items() if each.given or each is through}
            self._servers = {**told, **kept}

    def choose(self) -> tuple[Server, float]:
        """The server to try now and the seconds to wait before: the least failed, another before the one just left."""
        self._tries += 1
        chosen = min(self._servers.values(), key=lambda each: (each.failures, each is self._left, random.random()))
        return chosen, wait_before(self._tries)

    def reached(self, server: Server) -> None:
        """It let us in."""
        server.failures = 0
        self._left = server
        self._since = time.monotonic()

    def lost(self) -> None:
        """The connection broke. One that lets us in and throws us out at once is not asked forty times a second."""
        if time.monotonic() - self._since > _STEADY:
            self._tries = 0

    def failed(self, server: Server) -> None:
        """It did not."""
        server.failures += 1


def _place(url: str) -> tuple[str, int] | None:
    """Host and port of ``host:port``, ``None`` when it is something else."""
    try:
        split = urlsplit(f"//{url}")
        host, port = split.hostname, split.port
    except ValueError:
        return None
    return (host, port) if host and port else None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
