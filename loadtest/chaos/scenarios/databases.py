"""What happens to the ledger's file."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING, Final

from loadtest.chaos.histories import Op, now

if TYPE_CHECKING:
    from pathlib import Path

    from loadtest.chaos.plan import Fault
    from loadtest.chaos.stage import Stage

_TO_GET_IT: Final = 20.0


class DatabaseLocked:
    """Somebody else holds it longer than workers wait: they pause, and try again."""

    async def play(self, fault: Fault, stage: Stage) -> None:
        """See ``Scenario``."""
        since = now()
        await asyncio.to_thread(_hold, stage.books, fault.seconds)
        stage.healed(fault)

        async def noticed() -> str | None:
            for name in stage.crew.names("worker"):
                for event in stage.crew.pulse(name):
                    if event.op is Op.TROUBLE and event.t > since:
                        return f"{name}: {event.told}"
            return None

        stage.fired(fault, await stage.shown(noticed, "no worker had to wait for it"))


def _hold(path: Path, seconds: float) -> None:
    with closing(sqlite3.connect(path, timeout=_TO_GET_IT, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        time.sleep(seconds)
        db.execute("ROLLBACK")
