"""Everybody at work on a broker's connection, and how they are brought to an end before it closes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from broker.responding import Responder
    from broker.subscriptions import Subscription


class Drainable(Protocol):
    """Works through stored messages and can be told to stop."""

    async def drain(self, timeout: float) -> None:
        """Finish what runs, give the rest back, within ``timeout`` seconds."""


class Roster:
    """The subscriptions, responders, consumptions and pullers of one broker."""

    def __init__(self) -> None:
        self.subscriptions: set[Subscription] = set()
        self.responders: set[Responder] = set()
        self.drainables: set[Drainable] = set()

    async def finish(self, timeout: float) -> None:
        """Stop everything that receives and let handlers finish."""
        async with asyncio.TaskGroup() as group:
            for drainable in tuple(self.drainables):
                group.create_task(drainable.drain(timeout))
            for subscription in tuple(self.subscriptions):
                group.create_task(subscription.drain())
        for responder in tuple(self.responders):
            await responder.finish()

    async def abandon(self) -> None:
        """Stop everything now: handlers are cancelled, their messages given back."""
        await asyncio.gather(
            *(each.cancel() for each in tuple(self.responders)),
            *(each.drain(0) for each in tuple(self.drainables)),
            *(each.unsubscribe() for each in tuple(self.subscriptions)),
        )
        self.responders.clear()
