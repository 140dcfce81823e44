"""How a broker subscribes, on behalf of every verb that receives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.contracts.errors import BrokerError
from broker.contracts.subjects import resource_name, subscribe_pattern
from broker.handling import check_handler
from broker.subscriptions import Subscription, make_backlog

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.contracts.backend import CoreBackend
    from broker.contracts.codec import Codec
    from broker.contracts.options import Overflow
    from broker.lifetime import Lifetime
    from broker.messages import Message
    from broker.roster import Roster


class Listener:
    """Makes subscriptions, checked first, and enlists them so that they end with the broker."""

    def __init__(self, backend: CoreBackend, codec: Codec, roster: Roster, lifetime: Lifetime) -> None:
        self._backend = backend
        self._codec = codec
        self._roster = roster
        self._lifetime = lifetime

    async def __call__(
        self,
        subject: str,
        handler: Callable[[Message], Any] | None = None,
        *,
        queue: str | None = None,
        pending_limit: int = 65_536,
        overflow: Overflow = "drop_oldest",
        wrap: bool = False,
    ) -> Subscription:
        """A subscription that is active; arguments and errors as ``Broker.subscribe``, ``wrap`` for user handlers."""
        if queue is not None:
            resource_name(queue, "queue")
        if handler is not None:
            check_handler(handler)
        self._lifetime.check_open()
        subscription = Subscription(
            subscribe_pattern(subject),
            handler,
            queue=queue,
            backlog=make_backlog(overflow, pending_limit, self._backend.stats),
            codec=self._codec,
            backend=self._backend,
            wrap=self._backend.around if wrap else None,
            forget=self._roster.subscriptions.discard,
        )
        await subscription.start()
        try:
            self._lifetime.check_open()
        except BrokerError:  # the end began meanwhile, and passed by whoever was not enlisted yet
            await subscription.unsubscribe()
            raise
        self._roster.subscriptions.add(subscription)
        return subscription
