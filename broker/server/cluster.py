"""Several real nats-servers that replicate for each other."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Self

from broker.contracts.errors import InvalidOption
from broker.server.config import Peering, Settings, read_config, without_store_dir
from broker.server.errors import InUse, ServerError
from broker.server.node import NatsServer
from broker.server.ports import free_ports
from broker.server.ready import is_healthy, is_led, jetstream_answers, replicates

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Mapping, Sequence
    from types import TracebackType

_SMALLEST = 3
_MOST_REPLICAS = 5
_MOVES = 3  # times a fresh cluster may choose other ports
_ELECTIONS = 2  # times a new cluster may start anew for a quicker election
_ELECTION_TIMEOUT = 1.5
_TICK = 0.05


class Cluster:
    """A cluster of nats-servers with JetStream on disk; like one ``NatsServer``, none outlives the program.

    Args:
        size: number of nodes, odd and at least three: JetStream decides by majority.
        store_dir: holds one directory per node and survives ``stop()``; None stores in temporary directories.
        port: of the first node for clients, the others take the next ones; None chooses free ones.
        host: address to listen on.
        binary: path of the executable; None finds it.
        sync_interval: JetStream's; "always" makes an ack mean "on disk", None is the server's default.
        config: more configuration text for every node, as for ``NatsServer``.
        name: of the cluster; the nodes are name-1, name-2 ...
        max_payload: in bytes.
        login: how the readiness probe logs in when ``config`` asks for it, as fields of CONNECT. Without, or with
            TLS, readiness is what the nodes say of their own health.
    """

    def __init__(
        self,
        size: int = 3,
        *,
        store_dir: str | Path | None = None,
        port: int | None = None,
        host: str = "127.0.0.1",
        binary: str | Path | None = None,
        sync_interval: str | None = "always",
        config: str | None = None,
        name: str = "gamebroker",
        max_payload: int | None = None,
        login: Mapping[str, str] | None = None,
    ) -> None:
        if size < _SMALLEST or not size % 2:
            raise InvalidOption(f"a cluster has an odd number of nodes, three or more, not {size}", option="size")
        common = Settings(
            host=host,
            sync_interval=sync_interval,
            max_payload=max_payload,
            text=config or "",
            peering=Peering(port=0, routes=(), name=name),
        )
        #: The servers, in order; each can be killed, frozen, started and restarted on its own.
        self.nodes: list[NatsServer] = []
        for number in range(1, size + 1):
            node = NatsServer(Path(store_dir) / f"node-{number}" if store_dir is not None else None, binary=binary)
            node.settings = replace(common, name=f"{name}-{number}")
            self.nodes.append(node)
        self._login = login
        self._first_port = port
        self._settled = False

    @classmethod
    def from_configs(
        cls,
        paths: Sequence[str | Path],
        *,
        store_dir: str | Path | None = None,
        port: int | None = None,
        host: str = "127.0.0.1",
        binary: str | Path | None = None,
        env: Sequence[Mapping[str, str]] = (),
        login: Mapping[str, str] | None = None,
    ) -> Self:
        """A cluster from one configuration file per node, such as those mounted into containers.

        Names, limits, accounts and JetStream's options are the files'. Replaced, without touching the files, are:
        client, route and monitoring addresses, what is advertised, the routes and their passwords, ``store_dir``.
        TLS and other listeners (leaf nodes, gateways, WebSocket, MQTT) start as the files say.

        Args:
            paths: one file per node, each with a ``server_name`` and the same ``cluster.name``; the same file may
                come several times if the name is a ``$VARIABLE``.
            store_dir: as for ``Cluster``.
            port: as for ``Cluster``.
            host: as for ``Cluster``.
            binary: as for ``Cluster``.
            env: the ``$VARIABLES`` of each file, in the order of paths, besides those of this process.
            login: as for ``Cluster``.
        """
        cluster = cls(len(paths), store_dir=store_dir, port=port, host=host, binary=binary, login=login)
        if env and len(env) != len(paths):
            raise InvalidOption(f"env has {len(env)} mappings for {len(paths)} files", option="env")
        for node, path, variables in zip(cluster.nodes, paths, env or repeat(None, len(paths)), strict=True):
            text = without_store_dir(read_config(Path(path)))
            node.settings = Settings(host=host, text=text, peering=Peering(port=0, routes=()))
            node.env = variables
        return cluster

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def urls(self) -> list[str]:
        """Where clients connect, one per node."""
        return [node.url for node in self.nodes]

    @property
    def url(self) -> str:
        """All of ``urls``, with commas between."""
        return ",".join(self.urls)

    @property
    def version(self) -> str:
        """The nats-server's version, known from the first ``start()`` on."""
        return self.nodes[0].version

    @property
    def running(self) -> bool:
        """Whether every node's process exists."""
        return all(node.running for node in self.nodes)

    async def start(self, timeout: float = 15.0) -> None:
        """Returns when replicated streams can be made; starts the nodes that do not run.

        Failed or cancelled, it leaves nothing behind.
        """
        deadline = time.monotonic() + timeout
        try:
            if all(node.store.blank for node in self.nodes):
                await self._elect_quickly(deadline)
            await self._start_nodes(deadline)
            await self.ready(deadline - time.monotonic())
        except BaseException:
            await self.stop(timeout=0)
            raise

    async def _elect_quickly(self, deadline: float) -> None:
        """Makes the first election a short one, if it can.

        The nodes of a new cluster campaign at random moments within 0.8 s. In about one of twenty starts two do so
        at once, nobody wins, and the next try comes 4 to 9 s later. Starting anew is quicker, and nothing can have
        been stored without a leader.
        """
        for _ in range(_ELECTIONS):
            await self._start_nodes(deadline)
            if not await self._wait_ready(min(deadline, time.monotonic() + _ELECTION_TIMEOUT)):
                return
            await self.kill()
            for node in self.nodes:
                node.store.wipe()

    async def _start_nodes(self, deadline: float) -> None:
        for moves_left in reversed(range(_MOVES)):
            if not self._settled:
                self._choose_ports()
            try:
                await _together(node.start(deadline - time.monotonic()) for node in self.nodes)
            except InUse:
                if self._settled or not moves_left:
                    raise
                await self.stop(timeout=0)
            else:
                self._settled = True
                return

    def _choose_ports(self) -> None:
        size, host = len(self.nodes), self.nodes[0].settings.host
        free = free_ports(3 * size, host)
        clients, pages, routes = free[:size], free[size : 2 * size], tuple(free[2 * size :])
        if self._first_port is not None:
            clients = list(range(self._first_port, self._first_port + size))
        for node, client, page, route in zip(self.nodes, clients, pages, routes, strict=True):
            peering = node.settings.peering
            assert peering is not None
            node.settings = replace(
                node.settings, port=client, http_port=page, peering=replace(peering, port=route, routes=routes)
            )

    async def ready(self, timeout: float = 15.0) -> None:
        """Returns when the running nodes are healthy and every stream and consumer on them has a leader among them.

        If all nodes run, a replicated stream could be made, too.
        """
        if missing := await self._wait_ready(time.monotonic() + timeout):
            raise ServerError(f"the cluster is not ready in time: {missing}\n{self.nodes[0].last_words}")

    async def _wait_ready(self, deadline: float) -> str:
        expected = [node for node in self.nodes if node.running]
        while missing := await self._missing(expected):
            if ended := next((node for node in expected if not node.running), None):
                raise ServerError(f"node {self.nodes.index(ended) + 1} ended; the end of its log:\n{ended.last_words}")
            if time.monotonic() >= deadline:
                return missing
            await asyncio.sleep(_TICK)
        return ""

    async def _missing(self, nodes: Sequence[NatsServer]) -> str:
        if len(nodes) <= len(self.nodes) // 2:
            return f"only {len(nodes)} of {len(self.nodes)} nodes run"
        # First without the streams: a probe that was interrupted may have left one that will never be well.
        if unwell := await self._unwell(nodes, assets=False):
            return unwell
        if missing := await is_led([node.settings for node in nodes]):
            return missing
        # A new stream may be placed on a node that has just died, so it is tried only when all are there.
        if len(nodes) == len(self.nodes):
            missing = await replicates(nodes[0].settings, self._login, min(len(nodes), _MOST_REPLICAS))
        else:
            missing = await jetstream_answers(nodes[0].settings, self._login)
        return missing or await self._unwell(nodes, assets=True)

    async def _unwell(self, nodes: Sequence[NatsServer], *, assets: bool) -> str:
        for node in nodes:
            if unwell := await is_healthy(node.settings, assets=assets):
                return f"node {self.nodes.index(node) + 1}: {unwell}"
        return ""

    async def stop(self, timeout: float = 10.0) -> None:
        """Ends all nodes and removes temporary stores. Safe to repeat."""
        await _together(node.stop(timeout) for node in self.nodes)

    async def kill(self) -> None:
        """Ends all nodes by SIGKILL; ``start()`` brings them back on the same ports and the same stores."""
        await _together(node.kill() for node in self.nodes)

    async def rolling_restart(self, timeout: float = 15.0) -> None:
        """Restarts one node after the other, each when the cluster is whole again; the timeout is for each."""
        for node in self.nodes:
            await node.restart(timeout)
            await self.ready(timeout)


async def _together(calls: Iterable[Coroutine[None, None, None]]) -> None:
    """Returns when all are done; the first to fail cancels the others and is raised when they have ended."""
    try:
        async with asyncio.TaskGroup() as group:
            for call in calls:
                group.create_task(call)
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
