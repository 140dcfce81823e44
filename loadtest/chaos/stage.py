"""What a scenario can lay its hands on, and how it says what came of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

from broker import BrokerError
from loadtest.chaos.histories import Op

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from broker import StreamBroker
    from loadtest.chaos.crew import Crew
    from loadtest.chaos.databases import Database
    from loadtest.chaos.histories import History
    from loadtest.chaos.injecting import Injector
    from loadtest.chaos.plan import Fault, Plan
    from loadtest.chaos.servers import Servers

T = TypeVar("T")

_POLL: Final = 0.05


class NotFired(Exception):
    """The fault could not be seen to have happened; the message says why."""


@dataclass(slots=True)
class Stage:
    """The scene of a run."""

    plan: Plan
    directory: Path
    database: Database
    servers: Servers
    broker: StreamBroker
    crew: Crew
    inject: Injector
    messages: History
    pulse: History
    marked: set[tuple[int, Op]] = field(default_factory=set)

    def fired(self, fault: Fault, evidence: str) -> None:
        """It has happened, and this shows it."""
        self._mark(Op.FIRED, fault, evidence)

    def healed(self, fault: Fault) -> None:
        """From now on others have to recover from it. Idempotent: the first time counts."""
        self._mark(Op.HEALED, fault, "")

    def elected(self, fault: Fault, name: str) -> None:
        """The servers have another leader."""
        self._mark(Op.ELECTED, fault, name)

    def _mark(self, op: Op, fault: Fault, told: str) -> None:
        if (fault.number, op) not in self.marked:
            self.marked.add((fault.number, op))
            self.pulse.write(op, number=fault.number, told=told)

    async def shown(self, look: Callable[[], Awaitable[T | None]], missing: str, within: float | None = None) -> T:
        """What ``look`` finds, asked again and again; errors of the broker are part of the game.

        Args:
            look: asks once.
            missing: why it did not fire, if nothing is found.
            within: seconds; the plan's limit when ``None``.

        Raises:
            NotFired: nothing, for too long.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + (within or self.plan.limits.showing)
        while True:
            try:
                if found := await look():
                    return found
            except BrokerError:
                pass
            if clock() > deadline:
                raise NotFired(missing)
            await asyncio.sleep(_POLL)

    async def insist(self, call: Callable[[], Awaitable[Any]], missing: str) -> Any:
        """What ``call`` returns, made again while the broker's errors come in between.

        Raises:
            NotFired: they came for too long.
        """

        async def attempt() -> tuple[Any]:
            return (await call(),)

        [returned] = await self.shown(attempt, missing)
        return returned
