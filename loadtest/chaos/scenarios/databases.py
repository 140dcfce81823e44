"""What happens to the ledger's database."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from loadtest.chaos.census import unsettled
from loadtest.chaos.databases import Unreadable
from loadtest.chaos.stage import NotFired

if TYPE_CHECKING:
    from loadtest.chaos.plan import Fault
    from loadtest.chaos.stage import Stage


class DatabaseLocked:
    """Somebody else holds it: nothing is committed meanwhile, though there is something to be settled."""

    async def play(self, fault: Fault, stage: Stage) -> None:
        """See ``Scenario``."""

        async def held_up() -> str | None:
            try:
                idle = await asyncio.to_thread(stage.database.hold, fault.seconds)
            except Unreadable:  # another fault's doing
                return None
            waiting = sum((await unsettled(stage.broker)).values())
            return f"held for {fault.seconds:g} s; {waiting:.0f} messages waited" if idle and waiting else None

        stage.fired(fault, await stage.shown(held_up, "no worker had to wait for it"))


class DatabaseRestarted:
    """Its server ends, in order or at once, and begins again: workers wait for it, the messages in hand."""

    async def play(self, fault: Fault, stage: Stage) -> None:
        """See ``Scenario``."""
        told = await asyncio.to_thread(stage.database.restart, fault.seconds, how=fault.detail)
        stage.healed(fault)
        if not told:
            raise NotFired("connections have outlived it")
        stage.fired(fault, told)
