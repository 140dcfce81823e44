"""What happens to the server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from loadtest.chaos.stage import NotFired

if TYPE_CHECKING:
    from loadtest.chaos.plan import Fault
    from loadtest.chaos.stage import Stage

_START_TIMEOUT: Final = 60.0


class KillServer:
    """SIGKILL, a pause, the same store again. Recovery counts from the moment it is started."""

    async def play(self, fault: Fault, stage: Stage) -> None:
        """See ``Scenario``."""
        server = stage.servers.one
        pid = server.pid
        await server.kill()
        if server.running:
            raise NotFired(f"process {pid} has outlived SIGKILL")
        stage.fired(fault, f"process {pid} is gone")
        await asyncio.sleep(fault.seconds)
        stage.healed(fault)
        await server.start(_START_TIMEOUT)


class RestartServer:
    """SIGTERM and start. Recovery counts from when it answers again."""

    async def play(self, fault: Fault, stage: Stage) -> None:
        """See ``Scenario``."""
        before = stage.servers.one.pid
        await stage.servers.one.restart(_START_TIMEOUT)
        if stage.servers.one.pid == before:
            raise NotFired(f"process {before} still runs")
        stage.fired(fault, f"process {before} is now {stage.servers.one.pid}")
        stage.healed(fault)


class FreezeServer:
    """SIGSTOP and SIGCONT: connections stay, nothing answers."""

    async def play(self, fault: Fault, stage: Stage) -> None:
        """See ``Scenario``."""
        await stage.servers.one.freeze()
        try:
            stage.fired(fault, f"process {stage.servers.one.pid} is stopped")
            await asyncio.sleep(fault.seconds)
        finally:
            stage.healed(fault)
            await stage.servers.one.thaw()
