"""The processes of a run: started, replaced, brought to an end, and each beginning and end written down."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Final

from broker import Status
from loadtest.chaos.histories import Event, Op, last_events, last_of, pulse_file

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from loadtest.chaos.histories import History
    from services.children import Child, Children

START_TIMEOUT: Final = 120.0
_MODULES: Final = {"worker": "worker", "room": "room", "idle": "idle", "census": "census"}
_APART: Final = frozenset({"idle", "census"})
"""Kinds whose pulse tells of no connection: they have none, or no pulse."""


class Crew:
    """Knows which processes there are. A worker is replaced under a new name: ``worker-1.1``, ``worker-1.2`` ..."""

    def __init__(
        self, directory: Path, children: Children, history: History, *, grace: float, producer: str = "producer"
    ) -> None:
        self.directory = directory
        self._children = children
        self._history = history
        self._grace = grace
        self._modules = {**_MODULES, "producer": producer}
        self._lives: dict[str, int] = {}
        self._running: dict[str, Child] = {}

    async def begin(self, roles: Iterable[str]) -> None:
        """Start processes by role (``worker-1``, ``producer-2``, ``room``) and return when all are ready.

        Raises:
            ChildFailed: one did not come so far.
        """
        children = [self._start(role) for role in roles]
        await self._children.ready(children, START_TIMEOUT)

    def _start(self, role: str) -> Child:
        kind = role.split("-", 1)[0]
        self._lives[role] = self._lives.get(role, 0) + 1
        name = f"{role}.{self._lives[role]}" if kind == "worker" else role
        options = ("--directory", str(self.directory), "--name", name, "--grace", str(self._grace))
        child = self._children.start(name, f"loadtest.chaos.{self._modules[kind]}", *options)
        self._history.write(Op.BEGUN, key=name)
        self._running[role] = child
        return child

    def child(self, role: str) -> Child:
        """Who has that role now."""
        return self._running[role]

    def roles(self, kind: str) -> list[str]:
        """All that have begun."""
        return [role for role in self._running if role.split("-", 1)[0] == kind]

    def names(self, kind: str) -> list[str]:
        """Of all processes that ever had such a role, the living and the dead."""
        return [
            f"{role}.{life}" if kind == "worker" else role
            for role in self.roles(kind)
            for life in range(1, self._lives[role] + 1)
        ]

    def counted(self, kind: str, count: str) -> float:
        """So far, by all processes of a kind, as their last signs of life say."""
        told = (self.pulse(name) for name in self.names(kind))
        return sum(max((event.counts.get(count, 0.0) for event in events), default=0.0) for events in told)

    def pulse(self, name: str) -> list[Event]:
        """The last events of a process's pulse."""
        return last_events(pulse_file(self.directory, name))

    def adrift(self, since: float) -> list[str]:
        """Who lives and has not told since then that it lives and is connected; never one that has no connection."""
        return [
            child.name
            for role, child in self._running.items()
            if role.split("-", 1)[0] not in _APART and child.running and not self._connected(child.name, since)
        ]

    def _connected(self, name: str, since: float) -> bool:
        pulse = pulse_file(self.directory, name)
        beat, status = last_of(pulse, Op.BEAT), last_of(pulse, Op.STATUS)
        return beat is not None and beat.t > since and status is not None and status.told == Status.CONNECTED

    async def replace(self, role: str) -> None:
        """A new one in place of one that has ended.

        Raises:
            ChildFailed: it did not come so far.
        """
        await self.begin([role])

    def ended(self, role: str, why: str, seconds: float = 0.0) -> None:
        """Write down that it did, why, and how long it took."""
        child = self._running[role]
        code = child.process.poll()
        counts = {"code": float(code if code is not None else -999), "seconds": round(seconds, 3)}
        self._history.write(Op.ENDED, key=child.name, told=why, counts=counts)
        if code is not None and child.process.stdin is not None:
            child.process.stdin.close()  # its lifeline: hundreds of workers live and die in a run

    async def ask(self, roles: Iterable[str]) -> None:
        """SIGTERM them together and see them end; one that does not is killed, and counts as late."""
        await asyncio.gather(*(self._ask(role) for role in roles))

    async def _ask(self, role: str) -> None:
        child = self._running[role]
        clock = asyncio.get_running_loop().time
        began = clock()
        if not child.signal(signal.SIGTERM):
            self.ended(role, "died")
            return
        if await child.ended(self._grace * 2) is None:
            child.process.kill()
            await child.ended(START_TIMEOUT)
        self.ended(role, "asked", clock() - began)

    async def over(self, role: str, timeout: float) -> int | None:
        """The exit code of one that ends by itself; ``None``: it did not in time."""
        return await self._running[role].ended(timeout)
