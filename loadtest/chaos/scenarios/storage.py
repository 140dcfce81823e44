"""What happens when a server has no room: nothing that was confirmed goes, and nothing new is confirmed."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from loadtest.chaos.servers import ACCESS, roomy

if TYPE_CHECKING:
    from pathlib import Path

    from loadtest.chaos.plan import Fault
    from loadtest.chaos.stage import Stage

_START_TIMEOUT: Final = 60.0
_LITTLE: Final = 64 << 10
_BALLAST: Final = "ballast"


class StorageFull:
    """The server is started again with room for little more than it holds: refused, not dropped. Then with enough."""

    async def play(self, fault: Fault, stage: Stage) -> None:
        """See ``Scenario``."""
        server = stage.servers.one
        info = await stage.insist(lambda: stage.broker.request("$JS.API.INFO", b""), "the server did not say")
        room = int(info.json()["storage"]) + _LITTLE
        before = stage.crew.counted("producer", "refused")

        async def refused() -> str | None:
            count = stage.crew.counted("producer", "refused") - before
            return f"{count:.0f} refused with room for {room:,} bytes" if count else None

        server.settings = replace(server.settings, text=ACCESS + roomy(stage.plan, room))
        try:
            await server.restart(_START_TIMEOUT)
            stage.fired(fault, await stage.shown(refused, "nothing was refused"))
        finally:
            server.settings = replace(server.settings, text=ACCESS)
            stage.healed(fault)
            await server.restart(_START_TIMEOUT)


class DiskFull:
    """The file system of its store is full. Freeing it heals no server that has met it: it is started again."""

    async def play(self, fault: Fault, stage: Stage) -> None:
        """See ``Scenario``."""
        server = stage.servers.one
        before = self._unheard(stage)

        async def unheard() -> str | None:
            count = self._unheard(stage) - before
            return f"{count:.0f} attempts came to nothing, {size:,} bytes of ballast" if count else None

        ballast = server.store_dir / _BALLAST
        size = await asyncio.to_thread(_fill, ballast)
        try:
            stage.fired(fault, await stage.shown(unheard, "nobody met the end of the disk"))
        finally:
            ballast.unlink()
            stage.healed(fault)
            await server.restart(_START_TIMEOUT)

    @staticmethod
    def _unheard(stage: Stage) -> float:
        return sum(stage.crew.counted("producer", count) for count in ("refused", "unknown"))


def _fill(ballast: Path) -> int:
    """Take all the room there is; how much that was."""
    taken = 0
    with ballast.open("wb") as file:
        while room := os.statvfs(ballast.parent).f_bavail * os.statvfs(ballast.parent).f_frsize:
            try:
                os.posix_fallocate(file.fileno(), taken, room)
            except OSError:  # somebody else was quicker
                continue
            taken += room
    return taken
