"""What happens to the nodes of a cluster."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from loadtest.chaos.elections import watched
from loadtest.chaos.settlements import STREAM
from loadtest.chaos.stage import NotFired

if TYPE_CHECKING:
    from broker.server import NatsServer
    from loadtest.chaos.plan import Fault
    from loadtest.chaos.stage import Stage

_TIMEOUT: Final = 60.0


async def leader(stage: Stage, within: float | None = None) -> NatsServer:
    """The node that leads the stream now; waited for as long as ``Stage.shown`` says."""

    async def found() -> NatsServer | None:
        reply = await stage.broker.request(f"$JS.API.STREAM.INFO.{STREAM}", b"")
        name = reply.json().get("cluster", {}).get("leader")
        return next((node for node in stage.servers.cluster.nodes if node.settings.name == name), None)

    return await stage.shown(found, "the stream has no leader", within)


class KillLeader:
    """SIGKILL; the others elect another, and the old one comes back as a follower."""

    async def play(self, fault: Fault, stage: Stage) -> None:
        """See ``Scenario``."""
        node = await leader(stage)
        stage.healed(fault)
        await node.kill()
        try:
            if node.running:
                raise NotFired(f"{node.settings.name} has outlived SIGKILL")
            async with watched(stage, fault, node):
                await asyncio.sleep(fault.seconds)
                successor = await leader(stage)
            if successor is node:
                raise NotFired(f"{node.settings.name} still leads")
            stage.fired(fault, f"{node.settings.name} is gone, {successor.settings.name} leads")
        finally:
            await node.start(_TIMEOUT)
            await stage.servers.cluster.ready(_TIMEOUT)


class FreezeLeader:
    """SIGSTOP long enough for the others to elect another; then the old one wakes and believes that it leads."""

    async def play(self, fault: Fault, stage: Stage) -> None:
        """See ``Scenario``."""
        node = await leader(stage)
        stage.healed(fault)
        await node.freeze()
        try:
            stage.fired(fault, f"{node.settings.name} led and is stopped")
            async with watched(stage, fault, node):
                await asyncio.sleep(fault.seconds)
        finally:
            await node.thaw()
            await stage.servers.cluster.ready(_TIMEOUT)


class LameDuck:
    """A node is told to go: it sends its clients to the others, hands over what it leads, and ends by itself."""

    async def play(self, fault: Fault, stage: Stage) -> None:
        """See ``Scenario``."""
        node = await leader(stage)
        node.lame_duck()
        try:
            async with asyncio.timeout(_TIMEOUT):
                await node.wait()
        except TimeoutError as exc:
            raise NotFired(f"{node.settings.name} did not end") from exc
        stage.fired(fault, f"{node.settings.name} led, sent its clients away and ended")
        stage.healed(fault)
        await node.start(_TIMEOUT)
        await stage.servers.cluster.ready(_TIMEOUT)


class Rolling:
    """Each node is restarted, the next when the cluster is whole again."""

    async def play(self, fault: Fault, stage: Stage) -> None:
        """See ``Scenario``."""
        nodes = stage.servers.cluster.nodes
        before = [node.pid for node in nodes]
        await stage.servers.cluster.rolling_restart(_TIMEOUT)
        after = [node.pid for node in nodes]
        if set(before) & set(after):
            raise NotFired("a node still runs as before")
        stage.fired(fault, f"processes {before} are now {after}")


class KillAll:
    """SIGKILL to all; the same stores again."""

    async def play(self, fault: Fault, stage: Stage) -> None:
        """See ``Scenario``."""
        cluster = stage.servers.cluster
        await cluster.kill()
        if any(node.running for node in cluster.nodes):
            raise NotFired("a node has outlived SIGKILL")
        stage.fired(fault, "all nodes are gone")
        await asyncio.sleep(fault.seconds)
        stage.healed(fault)
        async with watched(stage, fault):
            await cluster.start(_TIMEOUT)
            await leader(stage, _TIMEOUT)
