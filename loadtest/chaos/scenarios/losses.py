"""What a server loses although it had confirmed it: senders who kept it send it again, and the loss is a delay."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from loadtest.chaos.blocks import flip
from loadtest.chaos.settlements import STREAM, WORKERS
from loadtest.chaos.stage import NotFired

if TYPE_CHECKING:
    from loadtest.chaos.plan import Fault
    from loadtest.chaos.stage import Stage

_START_TIMEOUT: Final = 60.0
_SOME: Final = 100


async def _none_of_ours(stage: Stage) -> None:
    """What the director has sent is in no outbox: it is settled first."""

    async def settled() -> bool:
        return (await stage.broker.consumers.info(STREAM, WORKERS)).ack_floor >= stage.inject.last

    await stage.shown(settled, "what was sent without an outbox was not settled")
    stage.inject.last = 0


class StreamDeleted:
    """An administrator deletes it with what was not settled yet, and makes it anew."""

    async def play(self, fault: Fault, stage: Stage) -> None:
        """See ``Scenario``."""
        await _none_of_ours(stage)
        streams, consumers = stage.broker.streams, stage.broker.consumers

        async def unsettled() -> int:
            info = await consumers.info(STREAM, WORKERS)
            return info.pending + info.ack_pending

        before = await stage.insist(lambda: streams.info(STREAM), "there was no stream")
        count = await stage.shown(unsettled, "there was nothing to lose")
        try:
            await stage.insist(lambda: streams.delete(STREAM), "it could not be deleted")
        finally:
            stage.healed(fault)
            await stage.insist(lambda: stage.broker.declare(before.config), "it could not be made anew")
        after = await stage.insist(lambda: streams.info(STREAM), "there is no stream")
        if after.created == before.created:
            raise NotFired("it is the same stream")
        stage.fired(
            fault, f"deleted with {count} unsettled messages, number {before.state.last_sequence} the last; made anew"
        )


class BitFlip:
    """One bit of a message that is on disk, while the server is down: it drops that one and all that follow."""

    async def play(self, fault: Fault, stage: Stage) -> None:
        """See ``Scenario``."""
        await _none_of_ours(stage)
        server = stage.servers.one

        async def some() -> bool:
            return (await stage.broker.streams.info(STREAM)).messages >= _SOME

        await stage.shown(some, "there were too few messages")
        await server.kill()
        try:
            flipped = await asyncio.to_thread(flip, server.store_dir, STREAM)
        finally:
            stage.healed(fault)
            await server.start(_START_TIMEOUT)
        if flipped is None:
            raise NotFired("there was no message on disk")

        async def gone() -> str | None:
            found = await stage.broker.streams.get_message(STREAM, flipped.sequence)
            if found is not None and found.data == flipped.body:
                return None
            return f"message {flipped.sequence} in {flipped.block} is gone, with {flipped.after} after it"

        stage.fired(fault, await stage.shown(gone, f"message {flipped.sequence} is there as if nothing had happened"))
