"""The core tier of a connection to a memory hub."""

from __future__ import annotations

import asyncio
import secrets
from itertools import count
from typing import TYPE_CHECKING, Final

from broker.backends.memory.clock import after
from broker.backends.memory.outbox import Outbox, Parcel
from broker.backends.memory.routing import Subscription
from broker.backends.memory.wire import check_payload
from broker.contracts.backend import Capabilities, CoreBackend, Interest
from broker.contracts.errors import BrokerClosed, NoResponders, RequestTimeout
from broker.contracts.status import Stats, Status, StatusBoard
from broker.contracts.subjects import publish_subject, subscribe_pattern

if TYPE_CHECKING:
    from broker.backends.memory.hub import MemoryHub
    from broker.contracts.backend import Around, Deliver
    from broker.contracts.envelopes import Envelope
    from broker.contracts.headers import Headers

_NO_RESPONDERS: Final = 503


class MemoryInterest(Interest):
    """A live subscription at a hub."""

    def __init__(self, core: MemoryCore, subscription: Subscription) -> None:
        self._core = core
        self._subscription = subscription

    async def stop(self) -> None:
        """No message is delivered after this returns. Idempotent."""
        self._core.forget(self._subscription)


class MemoryCore(CoreBackend):
    """Publishes, subscribes and requests through a hub.

    Args:
        hub: what it is connected to.
        inbox_prefix: first tokens of reply subjects.
        outbound_limit: bytes of core messages sent within one loop turn at most; the oldest beyond it are dropped.
        echo: whether its own messages come back to its own subscriptions.
    """

    capabilities = Capabilities(
        survives_restart=False,
        detects_no_responders=True,
        crosses_processes=False,
        limits_pending_per_group=True,
        reports_duplicates=True,
        expects_sequences=True,
        expires_messages=True,
        copies_streams=False,
        groups_by_priority=False,
    )

    def __init__(
        self, hub: MemoryHub, *, inbox_prefix: str = "_INBOX", outbound_limit: int = 8 << 20, echo: bool = True
    ) -> None:
        self.board: StatusBoard = StatusBoard()
        self.stats: Stats = Stats()
        self.around: Around | None = None
        self.outbox = Outbox(outbound_limit, self.stats)
        self._hub = hub
        self._deaf_to = None if echo else self.outbox
        self._open = True
        self._subscriptions: set[Subscription] = set()
        self._inbox = f"{inbox_prefix}.{secrets.token_hex(8)}"
        self._inboxes = count(1)
        self._replies: dict[str, asyncio.Future[Envelope]] = {}
        self._replies_subscribed = False
        hub.attach(self)

    @property
    def max_payload(self) -> int:
        """Bytes of body and headers together that one message may have."""
        return self._hub.max_payload

    def publish(self, subject: str, data: bytes, headers: Headers | None, reply_to: str | None = None) -> None:
        """Take a message; the hub carries it on the loop's next turn."""
        if not self._open:
            raise BrokerClosed
        self._send(subject, data, headers, reply_to)
        self.stats.published += 1

    @property
    def congested(self) -> bool:
        """Whether this loop turn's messages fill more than half of ``outbound_limit``."""
        return self.outbox.congested

    async def writable(self) -> None:
        """Wait until the hub has carried what was sent."""
        self._check_open()
        while self.outbox.congested:
            await self.outbox.emptied()
            self._check_open()

    async def request(self, subject: str, data: bytes, headers: Headers | None, *, timeout: float) -> Envelope:
        """The first reply; a subject that a stream captures answers with the server's receipt, as on NATS."""
        self._check_open()
        self._listen_for_replies()
        reply_to = f"{self._inbox}.{next(self._inboxes)}"
        self._send(subject, data, headers, reply_to)
        self.stats.requests += 1
        answer: asyncio.Future[Envelope] = asyncio.get_running_loop().create_future()
        self._replies[reply_to] = answer

        def expire() -> None:
            if not answer.done():
                self.stats.request_timeouts += 1
                answer.set_exception(RequestTimeout(f"no reply within {timeout:g} s", subject=subject))

        timer = after(self._hub.clock, timeout, expire)
        try:
            reply = await answer
        finally:
            timer.cancel()
            del self._replies[reply_to]
        if reply.headers is not None and reply.headers.status == _NO_RESPONDERS:
            raise NoResponders(f"nobody listens on {subject!r}", subject=subject)
        return reply

    def new_inbox(self) -> str:
        """A fresh subject under the inbox prefix that nobody else listens to."""
        return f"{self._inbox}-{next(self._inboxes)}"

    async def subscribe(self, subject: str, deliver: Deliver, *, queue: str | None) -> MemoryInterest:
        """Deliver what arrives on the pattern; what this connection sent before is not."""
        self._check_open()
        pattern = subscribe_pattern(subject)
        if self.outbox:
            await self.outbox.emptied()
            self._check_open()
        return MemoryInterest(self, self._add(Subscription(pattern, deliver, queue, self._deaf_to)))

    async def flush(self, *, timeout: float) -> None:
        """Return when everything sent before is delivered; the hub needs one loop turn, so no time-out can pass."""
        del timeout
        self._check_open()
        if self.outbox:
            await self.outbox.emptied()
        else:
            await asyncio.sleep(0)
        self._check_open()

    async def close(self) -> None:
        """Release everything; what was not carried is thrown away and counted. Idempotent."""
        if not self._open:
            return
        self._open = False
        for subscription in tuple(self._subscriptions):
            self.forget(subscription)
        for answer in self._replies.values():
            if not answer.done():
                answer.set_exception(BrokerClosed())
        self.outbox.discard(BrokerClosed())
        self._hub.detach(self)
        self.board.set(Status.CLOSED)

    def forget(self, subscription: Subscription) -> None:
        """Stop delivering to it. Idempotent."""
        self._subscriptions.discard(subscription)
        self._hub.remove(subscription)

    def _add(self, subscription: Subscription) -> Subscription:
        self._subscriptions.add(subscription)
        self._hub.add(subscription)
        return subscription

    def _send(self, subject: str, data: bytes, headers: Headers | None, reply_to: str | None) -> None:
        size = check_payload(publish_subject(subject), data, headers, self._hub.max_payload)
        if not self.outbox:
            self._hub.collect(self.outbox)
        self.outbox.put(Parcel(subject, bytes(data), headers, reply_to, size))

    def _listen_for_replies(self) -> None:
        if not self._replies_subscribed:
            self._replies_subscribed = True
            self._add(Subscription(f"{self._inbox}.*", self._reply, None))

    def _reply(self, envelope: Envelope) -> None:
        answer = self._replies.get(envelope.subject)
        if answer is not None and not answer.done():
            answer.set_result(envelope)

    def _check_open(self) -> None:
        self.board.check_loop()
        if not self._open:
            raise BrokerClosed
