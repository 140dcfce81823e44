"""What happens to a worker."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Final

from loadtest.chaos import orders
from loadtest.chaos.histories import Op, now
from loadtest.chaos.stage import NotFired

if TYPE_CHECKING:
    from loadtest.chaos.plan import Fault
    from loadtest.chaos.stage import Stage

_LAST_WORDS: Final = 0.1
"""Seconds within which a signal stops a process that is in the middle of a line."""


def _role(fault: Fault) -> str:
    return f"worker-{fault.target}"


class WorkerKill:
    """SIGKILL at a named point of a batch; another takes its place."""

    async def play(self, fault: Fault, stage: Stage) -> None:
        """See ``Scenario``."""
        role, crew = _role(fault), stage.crew
        name = crew.child(role).name
        orders.give(stage.directory, name, fault.detail)
        code = await crew.over(role, stage.plan.limits.showing)
        if code is None:
            orders.withdraw(stage.directory, name)
            raise NotFired(f"{name} has not come to {fault.detail}")
        died = [event.told for event in crew.pulse(name) if event.op is Op.DIE]
        if code != -signal.SIGKILL or died != [fault.detail]:
            crew.ended(role, "died")
            raise NotFired(f"{name} ended with {code}, having said {died}")
        crew.ended(role, "killed")
        stage.fired(fault, f"{name} died at {fault.detail}")
        stage.healed(fault)
        await crew.replace(role)


class WorkerHang:
    """SIGSTOP for less or for longer than its messages wait, then SIGCONT: it goes on with what others have done."""

    async def play(self, fault: Fault, stage: Stage) -> None:
        """See ``Scenario``."""
        child = stage.crew.child(_role(fault))
        if not child.signal(signal.SIGSTOP):
            raise NotFired(f"{child.name} was not running")
        stopped = now()
        try:
            await asyncio.sleep(fault.seconds)
            wrote = max((event.t for event in stage.crew.pulse(child.name)), default=0.0)
        finally:
            child.signal(signal.SIGCONT)
        if wrote > stopped + _LAST_WORDS:
            raise NotFired(f"{child.name} went on for {wrote - stopped:.2f} s")
        stage.fired(fault, f"{child.name} gave no sign of life for {fault.seconds:g} s")


class Shutdown:
    """SIGTERM: it finishes what it has in hand and ends; another takes its place."""

    async def play(self, fault: Fault, stage: Stage) -> None:
        """See ``Scenario``."""
        role = _role(fault)
        name = stage.crew.child(role).name
        await stage.crew.ask([role])
        stage.fired(fault, f"{name} was asked to end, and did")
        stage.healed(fault)
        await stage.crew.replace(role)
