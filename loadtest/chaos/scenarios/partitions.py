"""What happens to the net between the nodes of a cluster."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from broker import BrokerError, EnqueueUnknown, StreamBroker
from loadtest.chaos.elections import leading, watched
from loadtest.chaos.scenarios.clusters import leader
from loadtest.chaos.settlements import STREAM, SUBJECT, body_of, settlement_of
from loadtest.chaos.stage import NotFired

if TYPE_CHECKING:
    from broker.server import NatsServer
    from loadtest.chaos.plan import Fault
    from loadtest.chaos.stage import Stage

_TIMEOUT: Final = 60.0
_NO_WORD: Final = 3.0
_ELECTED: Final = 20.0
"""Seconds after which it is given up, for nobody can begin to work while it lasts."""


async def _deposed(stage: Stage, node: NatsServer) -> str:
    """Who leads instead of it, as the others say themselves: our own connection may be with the minority."""
    others = [other for other in stage.servers.islands.nodes if other is not node]

    async def successor() -> str:
        return await leading(others)

    return await stage.shown(successor, f"nobody leads instead of {node.settings.name}", within=_ELECTED)


class Partition:
    """Whoever leads the stream is cut off from everybody: the others elect another, its clients go to them."""

    async def play(self, fault: Fault, stage: Stage) -> None:
        """See ``Scenario``."""
        islands = stage.servers.islands
        node = await leader(stage)
        stage.healed(fault)
        await asyncio.to_thread(islands.island(node).cut)
        try:
            async with watched(stage, fault, node):
                await asyncio.sleep(fault.seconds)
            stage.fired(fault, f"{node.settings.name} led and was cut off; {await _deposed(stage, node)} leads")
        finally:
            await asyncio.to_thread(islands.island(node).joined)
            await islands.ready(_TIMEOUT)


class MinorityClient:
    """The leader is cut off from the others, and a client stays with it: it is told nothing, and nothing false."""

    async def play(self, fault: Fault, stage: Stage) -> None:
        """See ``Scenario``."""
        islands = stage.servers.islands
        node = await leader(stage)

        async def connect() -> StreamBroker:
            return await StreamBroker.connect(node.url, name="chaos-minority")

        client: StreamBroker = await stage.insist(connect, "the client could not connect")
        key = f"minority-{fault.number}"
        body = body_of(settlement_of(key))
        try:
            await asyncio.to_thread(islands.divide, node)
            try:
                told = await self._told(client, key, body)
                await asyncio.sleep(fault.seconds)
                successor = await _deposed(stage, node)
            finally:
                await asyncio.to_thread(islands.unite, node)
                stage.healed(fault)
            # What came of the attempt is unknown: the same key is seen through.
            await stage.inject.send(key, body)
            stage.fired(fault, f"{node.settings.name} led alone, {successor} instead; with it a client heard: {told}")
        finally:
            await client.aclose()
            await islands.ready(_TIMEOUT)

    @staticmethod
    async def _told(client: StreamBroker, key: str, body: bytes) -> str:
        try:
            receipt = await client.enqueue(SUBJECT, body, idempotency_key=key, timeout=_NO_WORD)
        except EnqueueUnknown:
            return "unknown"
        except BrokerError as exc:
            return str(exc)
        raise NotFired(f"{STREAM} confirmed number {receipt.sequence} to a client with the minority")
