"""``request_many``: one question, every reply that comes in time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from broker.contracts.errors import BrokerClosed, ConnectionLost
from broker.contracts.status import Status
from broker.responding import checked_reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from broker.contracts.backend import CoreBackend
    from broker.messages import Message
    from broker.subscriptions import Subscription


async def collected(
    subject: str,
    data: bytes,
    *,
    timeout: float,
    max_replies: int | None,
    backend: CoreBackend,
    listen: Callable[[str], Awaitable[Subscription]],
) -> AsyncIterator[Message]:
    """The replies to ``data``, as ``Broker.request_many`` promises them; ``listen`` subscribes to an inbox."""
    inbox, came = backend.new_inbox(), 0
    replies = await listen(inbox)
    deadline = asyncio.get_running_loop().time() + timeout
    try:
        backend.stats.requests += 1
        backend.publish(subject, data, None, inbox)
        while max_replies is None or came < max_replies:
            try:
                async with asyncio.timeout_at(deadline):
                    reply = await anext(replies)
            except TimeoutError:
                break
            except StopAsyncIteration:  # nobody ends this subscription but the broker that is being closed
                backend.board.check_open()
                raise BrokerClosed from None
            came += 1
            checked_reply(reply.envelope, subject)
            yield reply
    finally:
        await replies.unsubscribe()
    backend.board.check_open()
    if backend.board.status is not Status.CONNECTED:
        raise ConnectionLost("the connection broke while collecting replies", subject=subject)
