"""``request_many``: one question, every reply that comes in time."""

from __future__ import annotations

import asyncio
from copy import copy
from typing import TYPE_CHECKING

from broker.contracts.errors import BrokerClosed, ConnectionLost
from broker.contracts.status import Status
from broker.responding import checked_reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from broker.contracts.backend import CoreBackend
    from broker.contracts.errors import PermissionDenied
    from broker.messages import Message
    from broker.subscriptions import Subscription


class _Patience:
    """How long replies are waited for: until the deadline, the question is forbidden or the connection breaks."""

    def __init__(self, subject: str, inbox: str, deadline: float) -> None:
        self._subject = subject
        self._subjects = {subject, inbox}
        self._deadline = deadline
        self._error: PermissionDenied | ConnectionLost | None = None
        self._waiting: asyncio.Timeout | None = None

    def deny(self, error: PermissionDenied) -> None:
        """The server forbids something; when it is the question, no reply will come."""
        if error.verb == "publish" and error.subject in self._subjects:
            self._give_up(error)

    def watch(self, status: Status) -> None:
        """The connection's status changed; when it broke, replies may be lost."""
        if status is Status.RECONNECTING:
            self._give_up(ConnectionLost("the connection broke while collecting replies", subject=self._subject))

    def _give_up(self, error: PermissionDenied | ConnectionLost) -> None:
        self._error, self._deadline = error, 0.0
        if self._waiting is not None and not self._waiting.expired():
            self._waiting.reschedule(self._deadline)

    async def next(self, replies: Subscription) -> Message:
        """The next reply; those that had come before it was given up, too.

        Raises:
            TimeoutError: the deadline passed.
            PermissionDenied: the question was forbidden.
            ConnectionLost: the connection broke.
            StopAsyncIteration: the subscription ended.
        """
        try:
            async with asyncio.timeout_at(self._deadline) as self._waiting:
                return await anext(replies)
        except TimeoutError:
            if self._error is not None:
                raise copy(self._error) from None
            raise
        finally:
            self._waiting = None


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
    patience = _Patience(subject, inbox, asyncio.get_running_loop().time() + timeout)
    unwatch = backend.board.denials.watch(patience.deny), backend.board.watch(patience.watch)
    try:
        backend.stats.requests += 1
        backend.publish(subject, data, None, inbox)
        while max_replies is None or came < max_replies:
            try:
                reply = await patience.next(replies)
            except TimeoutError:
                if backend.board.status is not Status.CONNECTED:  # it had broken before the question was sent
                    backend.board.check_open()
                    raise ConnectionLost("not connected", subject=subject) from None
                return
            except StopAsyncIteration:  # nobody ends this subscription but the broker that is being closed
                backend.board.check_open()
                raise BrokerClosed from None
            came += 1
            checked_reply(reply.envelope, subject)
            yield reply
    finally:
        for stop in unwatch:
            stop()
        await replies.unsubscribe()
