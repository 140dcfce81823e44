"""What administrators do to a stream and its consumer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from loadtest.chaos.settlements import STREAM, WORKERS

if TYPE_CHECKING:
    from loadtest.chaos.plan import Fault
    from loadtest.chaos.stage import Stage

_HEADROOM: Final = 0.5
"""Seconds of what is produced by which the limit differs from what it holds."""


class ConsumerDeleted:
    """The workers' position is gone: they make it anew, where it was or before, and go on."""

    async def play(self, fault: Fault, stage: Stage) -> None:
        """See ``Scenario``."""
        consumers = stage.broker.consumers
        before = await stage.insist(lambda: consumers.info(STREAM, WORKERS), "there was no consumer")
        await stage.insist(lambda: consumers.delete(STREAM, WORKERS), "it could not be deleted")
        stage.healed(fault)

        async def anew() -> str | None:
            info = await consumers.info(STREAM, WORKERS)
            return f"made at {before.created}, and anew at {info.created}" if info.created != before.created else None

        stage.fired(fault, await stage.shown(anew, "nobody made it anew"))


class StreamFull:
    """The stream's limit is lowered to about what it holds: refused, not dropped; then it is raised again."""

    async def play(self, fault: Fault, stage: Stage) -> None:
        """See ``Scenario``."""
        streams = stage.broker.streams
        before = stage.crew.counted("producer", "refused")
        info = await stage.insist(lambda: streams.info(STREAM), "there was no stream")
        more = int(stage.plan.rate * _HEADROOM) + 100
        # Where old ones go as fast as new ones come, the limit has to be below what it holds.
        room = info.messages + more if stage.plan.keep is None else max(1, info.messages - more)

        async def refused() -> str | None:
            count = stage.crew.counted("producer", "refused") - before
            return f"{count:.0f} refused at {room} messages" if count else None

        try:
            await stage.insist(lambda: streams.update(replace(info.config, max_msgs=room)), "it could not be limited")
            stage.fired(fault, await stage.shown(refused, "nothing was refused"))
        finally:
            stage.healed(fault)
            await stage.insist(lambda: streams.update(info.config), "its limit could not be raised")
