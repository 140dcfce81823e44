"""What happens to many connections at once, or to one with too much on it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

from broker import Broker, Status
from loadtest.soak.proxy import Proxy

if TYPE_CHECKING:
    from broker import Message
    from loadtest.chaos.plan import Fault
    from loadtest.chaos.stage import Stage

_CLIENTS: Final = 100
_BACKLOG: Final = 50
_SLOW: Final = 0.02


class ReconnectStorm:
    """All connections of a crowd are reset at the same moment; each comes back and works."""

    async def play(self, fault: Fault, stage: Stage) -> None:
        """See ``Scenario``."""
        proxy = Proxy(*stage.servers.place)
        await asyncio.to_thread(proxy.__enter__)
        try:
            async with AsyncExitStack() as stack:
                crowd = [
                    await stage.insist(lambda: self.client(stack, proxy.url), "a client could not connect")
                    for _ in range(_CLIENTS)
                ]
                proxy.cut_all()
                stage.healed(fault)

                async def back() -> bool:
                    return all(client.stats.reconnects and client.status is Status.CONNECTED for client in crowd)

                await stage.shown(back, "they did not all come back")
                await stage.insist(lambda: asyncio.gather(*(client.flush() for client in crowd)), "not all work")
                stage.fired(fault, f"{_CLIENTS} lost their connections and came back")
        finally:
            await asyncio.to_thread(proxy.__exit__, None, None, None)

    @staticmethod
    async def client(stack: AsyncExitStack, url: str) -> Broker:
        """One of the crowd; ends with the stack."""
        return await stack.enter_async_context(Broker.connect(url, name="chaos-storm"))


class SlowConsumer:
    """A subscriber slower than the game loop: its backlog stays bounded and every drop is counted, the rest goes on."""

    async def play(self, fault: Fault, stage: Stage) -> None:
        """See ``Scenario``."""

        async def dawdle(_: Message) -> None:
            await asyncio.sleep(_SLOW)

        async with AsyncExitStack() as stack:
            url = stage.servers.url
            client = await stage.insist(lambda: ReconnectStorm.client(stack, url), "the client could not connect")
            await stage.insist(
                lambda: client.subscribe("chaos.frame.*", dawdle, pending_limit=_BACKLOG), "no subscription"
            )

            async def dropped() -> int:
                return int(client.stats.dropped_inbound)

            count = await stage.shown(dropped, "nothing was dropped")
            stage.fired(fault, f"{count} frames dropped and counted, {client.stats.received} received")
