"""What a server loses although it had confirmed it: senders who kept it send it again, and the loss is a delay."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from broker import ConsumerNotFound, StreamNotFound
from loadtest.chaos.blocks import flip
from loadtest.chaos.settlements import STREAM, WORKERS
from loadtest.chaos.stage import NotFired

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from broker import StreamInfo
    from loadtest.chaos.plan import Fault
    from loadtest.chaos.stage import Stage

_START_TIMEOUT: Final = 60.0
_SOME: Final = 100
"""Messages: more than the one that is damaged has after it."""
_PAUSE: Final = timedelta(seconds=30)


async def _none_of_ours(stage: Stage) -> None:
    """What the director has sent is in no outbox: it is settled first."""

    async def settled() -> bool:
        return (await stage.broker.consumers.info(STREAM, WORKERS)).ack_floor >= stage.inject.last

    await stage.shown(settled, "what was sent without an outbox was not settled")
    stage.inject.last = 0


@asynccontextmanager
async def _something_to_lose(stage: Stage) -> AsyncIterator[int]:
    """While the block runs, workers are handed nothing; it begins when so many messages wait for them."""
    consumers = stage.broker.consumers
    until = datetime.now(UTC) + _PAUSE
    await stage.insist(lambda: consumers.pause(STREAM, WORKERS, until), "workers could not be held up")

    async def waiting() -> int | None:
        pending = (await consumers.info(STREAM, WORKERS)).pending
        return pending if pending >= _SOME else None

    async def resumed() -> None:
        with suppress(ConsumerNotFound, StreamNotFound):  # gone with its stream
            await consumers.resume(STREAM, WORKERS)

    try:
        yield await stage.shown(waiting, "there was nothing to lose")
    finally:
        await stage.insist(resumed, "workers are held up")


class StreamDeleted:
    """An administrator deletes it with what was not settled yet, and makes it anew."""

    async def play(self, fault: Fault, stage: Stage) -> None:
        """See ``Scenario``."""
        await _none_of_ours(stage)
        streams = stage.broker.streams
        async with _something_to_lose(stage) as count:
            before: StreamInfo = await stage.insist(lambda: streams.info(STREAM), "there was no stream")
            try:
                await stage.insist(lambda: streams.delete(STREAM), "it could not be deleted")
            finally:
                stage.healed(fault)
                await stage.insist(lambda: stage.broker.declare(before.config), "it could not be made anew")
        after: StreamInfo = await stage.insist(lambda: streams.info(STREAM), "there is no stream")
        if after.created == before.created:
            raise NotFired("it is the same stream")
        last = before.state.last_sequence
        stage.fired(fault, f"deleted with {count} messages nobody had been handed, number {last} the last")


class BitFlip:
    """One bit of a message that is on disk, while the server is down: it drops that one and all that follow."""

    async def play(self, fault: Fault, stage: Stage) -> None:
        """See ``Scenario``."""
        await _none_of_ours(stage)
        server = stage.servers.one
        async with _something_to_lose(stage):
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
