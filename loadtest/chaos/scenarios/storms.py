"""What happens to many connections at once."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

from broker import Broker, Status
from loadtest.soak.proxy import Proxy

if TYPE_CHECKING:
    from loadtest.chaos.plan import Fault
    from loadtest.chaos.stage import Stage

_CLIENTS: Final = 100


class ReconnectStorm:
    """All connections of a crowd are reset at the same moment; each comes back and works."""

    async def play(self, fault: Fault, stage: Stage) -> None:
        """See ``Scenario``."""
        proxy = Proxy(stage.servers.port)
        await asyncio.to_thread(proxy.__enter__)
        try:
            async with AsyncExitStack() as stack:
                crowd = [
                    await stage.insist(lambda: self._client(stack, proxy.url), "a client could not connect")
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
    async def _client(stack: AsyncExitStack, url: str) -> Broker:
        return await stack.enter_async_context(Broker.connect(url, name="chaos-storm"))
