"""Everybody at work on a broker's connection, and how they are brought to an end before it closes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from broker.responding import Responder
    from broker.subscriptions import Subscription


class Drainable(Protocol):
    """Works through stored messages and can be told to stop."""

    async def drain(self, timeout: float, *, caller: asyncio.Task[object] | None = None) -> None:
        """Finish what runs (but ``caller``, who is waiting for this), give the rest back, within ``timeout`` s."""


class Roster:
    """The subscriptions, responders, consumptions and pullers of one broker."""

    def __init__(self) -> None:
        self.subscriptions: set[Subscription] = set()
        self.responders: set[Responder] = set()
        self.drainables: set[Drainable] = set()

    def enlist(self, responder: Responder) -> None:
        """One more; those that have ended are forgotten."""
        self.responders = {each for each in self.responders if not each.idle}
        self.responders.add(responder)

    async def finish(self, timeout: float) -> None:
        """Stop everything that receives and let handlers finish; the one that asks for this is not waited for."""
        caller = asyncio.current_task()
        async with asyncio.TaskGroup() as group:
            for drainable in tuple(self.drainables):
                group.create_task(drainable.drain(timeout, caller=caller))
            for subscription in tuple(self.subscriptions):
                group.create_task(subscription.drain(caller=caller))
        for responder in tuple(self.responders):
            await responder.finish(caller)

    async def abandon(self, caller: asyncio.Task[object] | None) -> None:
        """Stop everything now: handlers are cancelled, but ``caller``, who asks for this; messages are given back."""
        await asyncio.gather(
            *(each.cancel(caller) for each in tuple(self.responders)),
            *(each.drain(0, caller=caller) for each in tuple(self.drainables)),
            *(each.unsubscribe(caller=caller) for each in tuple(self.subscriptions)),
        )
        self.responders.clear()
