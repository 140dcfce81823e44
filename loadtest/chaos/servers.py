"""The server of a run, or its three."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

from broker.server import Cluster, NatsServer
from loadtest.chaos.abilities import mount, unmount
from loadtest.chaos.catalogue import KINDS
from loadtest.chaos.islands import Islands

if TYPE_CHECKING:
    from pathlib import Path

    from loadtest.chaos.plan import Plan

GUEST: Final = "guest"
"""Who may do nearly nothing; its password is the same word."""
WITHOUT_GUEST: Final = """
no_auth_user: staff
authorization { users: [ { user: staff, password: staff } ] }
"""
ACCESS: Final = """
no_auth_user: staff
authorization { users: [
  { user: staff, password: staff }
  { user: guest, password: guest, permissions: { publish: "guest.>", subscribe: "_INBOX.>" } }
] }
"""
"""Whoever gives no name is staff."""
_DUCKS: Final = 'lame_duck_grace_period: "1s"\nlame_duck_duration: "30s"'
"""A node that is told to go does so in seconds."""
_START_TIMEOUT: Final = 60.0
_REPLICAS: Final = 3
_STORE: Final = 1 << 30
"""Bytes of a store that is to become full."""


def roomy(plan: Plan, room: int) -> str:
    """Configuration text: a store of so many bytes."""
    sync = ', sync_interval: "always"' if plan.durability == "fsync" else ""
    return f"\njetstream {{ max_file_store: {room}{sync} }}\n"


class Servers:
    """What the plan's backend says; an async context manager that ends them.

    Args:
        plan: of the run.
        store: where they store.
    """

    def __init__(self, plan: Plan, store: Path) -> None:
        sync = "always" if plan.durability == "fsync" else None
        self._cluster: Cluster | None = None
        self._islands: Islands | None = None
        if any("netns" in KINDS[fault.kind].needs for fault in plan.faults):
            self._cluster = self._islands = Islands(store, sync_interval=sync, config=_DUCKS)
        elif plan.backend == "cluster":
            self._cluster = Cluster(store_dir=store, sync_interval=sync, config=_DUCKS)
        self._small = store if any("mount" in KINDS[fault.kind].needs for fault in plan.faults) else None
        self._one = NatsServer(store, sync_interval=sync, config=ACCESS) if self._cluster is None else None

    async def __aenter__(self) -> Self:
        if self._small is not None:
            self._small.mkdir(parents=True, exist_ok=True)
            if wrong := mount(self._small, _STORE):
                raise OSError(wrong)
        try:
            if self._islands is not None:
                self._islands.build()
            await (self._cluster or self.one).start(_START_TIMEOUT)
        except BaseException:
            self._leave()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await (self._cluster or self.one).stop()
        finally:
            self._leave()

    def _leave(self) -> None:
        if self._islands is not None:
            self._islands.raze()
        if self._small is not None:
            unmount(self._small)

    @property
    def one(self) -> NatsServer:
        """The only one; scenarios of that backend ask."""
        assert self._one is not None
        return self._one

    @property
    def cluster(self) -> Cluster:
        """The three; scenarios of that backend ask."""
        assert self._cluster is not None
        return self._cluster

    @property
    def islands(self) -> Islands:
        """The three with a net that can be cut; scenarios that need it ask."""
        assert self._islands is not None
        return self._islands

    @property
    def replicas(self) -> int:
        """Copies of what is stored."""
        return 1 if self._cluster is None else _REPLICAS

    @property
    def url(self) -> str:
        """Where clients connect."""
        return (self._cluster or self.one).url

    @property
    def place(self) -> tuple[int, str]:
        """Port and host of the first."""
        first = self.one if self._cluster is None else self._cluster.nodes[0]
        return first.port, first.settings.host

    @property
    def version(self) -> str:
        """The nats-server's."""
        return (self._cluster or self.one).version
