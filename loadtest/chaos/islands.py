"""A cluster whose nodes live in network namespaces of their own, so that the net between them can be cut (root only).

A bridge joins them, and this process with all its clients. A node can be cut off altogether, or from the other nodes
alone while its clients still reach it.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from broker.server import Cluster, NatsServer
from broker.server.binary import find_nats_server
from broker.server.config import Peering
from loadtest.chaos.abilities import run

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_CLIENTS: Final = 4222
_PAGES: Final = 8222
_ROUTES: Final = 6222
"""The same ports everywhere: each has a network of its own."""


class Island:
    """A namespace with one address, and a link to the bridge."""

    def __init__(self, name: str, network: str, number: int) -> None:
        self.name = f"{name}n{number}"
        self.address = f"{network}.{number}"
        self._link = f"{name}v{number}"

    def make(self, bridge: str) -> None:
        """Raises OSError: it cannot be made."""
        inside = ("ip", "-n", self.name)
        _do(
            ("ip", "netns", "add", self.name),
            ("ip", "link", "add", self._link, "type", "veth", "peer", "name", "eth0", "netns", self.name),
            ("ip", "link", "set", self._link, "master", bridge, "up"),
            (*inside, "addr", "add", f"{self.address}/24", "dev", "eth0"),
            (*inside, "link", "set", "eth0", "up"),
            (*inside, "link", "set", "lo", "up"),
        )

    def remove(self) -> None:
        """Its end of the link goes with it."""
        run("ip", "netns", "delete", self.name)

    def cut(self) -> None:
        """Nobody reaches it, and it reaches nobody."""
        _do(("ip", "link", "set", self._link, "down"))

    def joined(self) -> None:
        """As before."""
        _do(("ip", "link", "set", self._link, "up"))

    def shun(self, others: Iterable[Island], *, again: bool = False) -> None:
        """What it sends to them goes nowhere; or, ``again``, it arrives."""
        verb = "delete" if again else "add"
        _do(*(("ip", "-n", self.name, "route", verb, "blackhole", f"{other.address}/32") for other in others))


class Islands(Cluster):
    """The cluster. ``build`` before it is started, ``raze`` when it has ended."""

    def __init__(self, store: Path, *, sync_interval: str | None, config: str) -> None:
        super().__init__(store_dir=store, sync_interval=sync_interval, config=config)
        self._name = f"gb{os.getpid()}"
        network = f"10.213.{os.getpid() % 254 + 1}"
        self._bridge, self._gate = f"{self._name}b", f"{network}.254"
        self.islands = [Island(self._name, network, number) for number in range(1, len(self.nodes) + 1)]
        self._store = store
        self.nodes = [
            self._node(node, island, store / f"node-{number}")
            for number, (node, island) in enumerate(zip(self.nodes, self.islands, strict=True), 1)
        ]

    def _node(self, like: NatsServer, island: Island, store: Path) -> NatsServer:
        node = NatsServer(store, binary=self._script(island))
        assert like.settings.peering is not None
        node.settings = replace(
            like.settings,
            host=island.address,
            port=_CLIENTS,
            http_port=_PAGES,
            peering=Peering(port=_ROUTES, routes=(_ROUTES,), name=like.settings.peering.name),
        )
        return node

    def _script(self, island: Island) -> Path:
        return self._store.parent / f"{island.name}.sh"

    def _choose_ports(self) -> None:
        """They are chosen."""

    def build(self) -> None:
        """Make the net.

        Raises:
            OSError: it cannot be made.
        """
        _do(
            ("ip", "link", "add", self._bridge, "type", "bridge"),
            ("ip", "addr", "add", f"{self._gate}/24", "dev", self._bridge),
            ("ip", "link", "set", self._bridge, "up"),
        )
        routes = ",".join(f"nats-route://{island.address}:{_ROUTES}" for island in self.islands)
        server = shlex.quote(str(find_nats_server(None).path))
        for island in self.islands:
            island.make(self._bridge)
            script = self._script(island)
            # The last word counts: the nodes' own settings know of no other hosts.
            script.write_text(f'#!/bin/sh\nexec ip netns exec {island.name} {server} "$@" --routes {routes}\n')
            script.chmod(0o755)

    def raze(self) -> None:
        """Take it away; idempotent."""
        for island in self.islands:
            island.remove()
        run("ip", "link", "delete", self._bridge)

    def island(self, node: NatsServer) -> Island:
        """Where it lives."""
        return self.islands[self.nodes.index(node)]

    def divide(self, node: NatsServer) -> None:
        """Cut it off from the other nodes; its clients still reach it."""
        alone = self.island(node)
        others = [island for island in self.islands if island is not alone]
        alone.shun(others)
        for other in others:
            other.shun([alone])

    def unite(self, node: NatsServer) -> None:
        """As before."""
        alone = self.island(node)
        others = [island for island in self.islands if island is not alone]
        alone.shun(others, again=True)
        for other in others:
            other.shun([alone], again=True)


def _do(*commands: tuple[str, ...]) -> None:
    for command in commands:
        if wrong := run(*command):
            raise OSError(wrong)
