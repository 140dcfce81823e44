"""The core tier: publish, subscribe, request, flush."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final

from broker.backends.nats import complaints, frames
from broker.backends.nats.frames import CRLF, KEPT_SIZES, SIZES, WireHeaders
from broker.backends.nats.session import Listener
from broker.contracts.backend import Capabilities, CoreBackend, Interest
from broker.contracts.envelopes import Envelope
from broker.contracts.errors import BrokerError, ConnectionLost, PayloadTooLarge, PermissionDenied, RequestTimeout
from broker.contracts.subjects import publish_subject, subscribe_pattern

if TYPE_CHECKING:
    from broker.backends.nats.contract import Link, Receive
    from broker.backends.nats.session import Session
    from broker.contracts.backend import Around, Deliver
    from broker.contracts.headers import Headers

CAPABILITIES: Final = Capabilities(
    survives_restart=True,
    detects_no_responders=True,
    crosses_processes=True,
    limits_pending_per_group=True,
    reports_duplicates=True,
    expects_sequences=True,
    expires_messages=True,
    copies_streams=True,
    groups_by_priority=True,
)
_KEPT_HEADS: Final = 8192
_SUBSCRIBE_TIMEOUT: Final = 5.0


class NatsCore(CoreBackend):
    """At-most-once messaging over one session."""

    capabilities = CAPABILITIES
    around: Around | None = None

    def __init__(self, session: Session) -> None:
        self._session = session
        self.board = session.board
        self.stats = session.stats
        self._link: Link = session.link
        self._send = session.link.send
        self._replies = session.replies
        self._heads: dict[str, bytes] = {}

    # -- out ----------------------------------------------------------------------------------------------------------

    @property
    def max_payload(self) -> int:
        """See ``CoreBackend``."""
        return self._link.max_payload

    def publish(self, subject: str, data: bytes, headers: Headers | None, reply_to: str | None = None) -> None:
        """See ``CoreBackend``."""
        link = self._link
        if link.closed:
            self.board.check_open()
        if headers is None and reply_to is None:
            head = self._heads.get(subject) or self._head(subject)
            size = len(data)
            if size > link.max_payload:
                raise PayloadTooLarge(size=size, limit=link.max_payload, subject=subject)
            self._send(head + SIZES[size] + data + CRLF if size < KEPT_SIZES else frames.pub(head, data))
        else:
            self._send(self.frame(publish_subject(subject), reply_to.encode() if reply_to else b"", data, headers))
        self.stats.published += 1

    def frame(self, subject: str, reply: bytes, data: bytes, headers: Headers | None) -> bytes:
        """A whole frame, checked against what the server takes.

        Raises:
            PayloadTooLarge: body and headers exceed ``max_payload``.
        """
        target = subject.encode()
        if headers is None or not headers.pairs:
            size, frame = len(data), frames.pub(frames.pub_head(target, reply), data)
        else:
            block = frames.header_block(headers.pairs)
            size, frame = len(block) + len(data), frames.hpub(target, reply, block, data)
        if size > self._link.max_payload:
            raise PayloadTooLarge(size=size, limit=self._link.max_payload, subject=subject)
        return frame

    def _head(self, subject: str) -> bytes:
        if len(self._heads) >= _KEPT_HEADS:
            self._heads.clear()
        head = self._heads[subject] = frames.pub_head(publish_subject(subject).encode())
        return head

    @property
    def clustered(self) -> bool:
        """Whether the server is one of several."""
        return self._link.clustered

    @property
    def jetstream(self) -> bool:
        """Whether there may be streams: the server has them itself, or is one of several."""
        return self._link.jetstream or self._link.clustered

    @property
    def congested(self) -> bool:
        """See ``CoreBackend``."""
        return self._link.congested

    async def writable(self) -> None:
        """See ``CoreBackend``."""
        self.board.check_open()
        await self._link.writable()
        self.board.check_open()

    async def request(self, subject: str, data: bytes, headers: Headers | None, *, timeout: float) -> Envelope:
        """See ``CoreBackend``."""
        if subject not in self._heads:
            self._head(subject)
        if not self._session.connected:
            self.board.check_open()
            self.frame(subject, b"", data, headers)  # what can never be sent is refused at once
            timeout = await self._session.connected_within(timeout)
        self.stats.requests += 1
        try:
            return await self.call(subject, data, headers, timeout)
        except RequestTimeout:
            self.stats.request_timeouts += 1
            raise

    async def call(self, subject: str, data: bytes, headers: Headers | None, timeout: float) -> Envelope:
        """Send at once and wait for the reply; errors as ``request``."""
        reply, answer = self._replies.request(subject, timeout)
        try:
            if self._ask(subject, reply, data, headers):
                return await answer
        except BaseException:
            self._replies.abandon(reply)
            raise
        self._replies.abandon(reply)
        raise self._session.ended() or ConnectionLost("not connected", subject=subject)

    def _ask(self, subject: str, reply: bytes, data: bytes, headers: Headers | None) -> bool:
        size, head = len(data), self._heads.get(subject)
        if headers is not None or head is None or size > self._link.max_payload:
            return self._link.send_stream(self.frame(subject, reply, data, headers))
        return self._link.send_stream(b"%b%b %d\r\n%b\r\n" % (head, reply, size, data))

    def new_inbox(self) -> str:
        """See ``CoreBackend``."""
        return self._session.new_inbox()

    async def flush(self, *, timeout: float) -> None:
        """See ``CoreBackend``."""
        self.board.check_open()
        await self._session.confirm(timeout)

    async def close(self) -> None:
        """See ``CoreBackend``."""
        await self._session.close()

    # -- in -----------------------------------------------------------------------------------------------------------

    async def subscribe(self, subject: str, deliver: Deliver, *, queue: str | None) -> Interest:
        """See ``CoreBackend``."""
        self.board.check_open()
        subscribe_pattern(subject)
        await self._session.connected_within(_SUBSCRIBE_TIMEOUT)
        interest = _Interest(self._session, partial(_enveloped, deliver))
        await interest.start(subject, queue)
        return interest


def _enveloped(deliver: Deliver, subject: bytes, reply: bytes, data: bytes, block: bytes | None) -> None:
    headers = None if block is None else WireHeaders(block)
    answer_to = reply.decode("utf-8", "replace") if reply else None
    deliver(Envelope(subject.decode("utf-8", "replace"), data, headers, answer_to))


class _Interest(Interest, Listener):
    """A subscription: listens to the session only while it is being made."""

    def __init__(self, session: Session, receive: Receive) -> None:
        self._session = session
        self._receive: Receive = receive
        self._pattern = ""
        self._queue: str | None = None
        self._sid = 0
        self._refused: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def start(self, pattern: str, queue: str | None) -> None:
        """Subscribe and wait until the server has it."""
        self._pattern, self._queue = pattern, queue
        self._session.listen(self)
        self._sid = self._session.link.subscribe(pattern.encode(), queue, self._receive)
        try:
            await self._confirmed(_SUBSCRIBE_TIMEOUT)
            if self._refused.done():
                self._refused.result()
        except BaseException:
            self._drop()
            raise
        finally:
            self._session.unlisten(self)
            self._refused.cancel()

    async def _confirmed(self, timeout: float) -> None:
        """Wait until the server has it: the next one, which the link asks by itself, when the first is left or lost."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout
        while True:
            try:
                await self._session.confirm(max(deadline - clock(), 0.001))
            except ConnectionLost:
                if clock() >= deadline:
                    raise
                await asyncio.sleep(0)
            else:
                return

    def _drop(self) -> None:
        sid, self._sid = self._sid, 0
        if sid:
            self._session.link.unsubscribe(sid)
            self._session.link.forget(sid)

    async def stop(self) -> None:
        self._drop()

    def on_lost(self) -> None:
        """The confirmation fails by itself."""

    def on_restored(self) -> None:
        """The link has asked for it again."""

    def on_ended(self, error: BrokerError) -> None:
        """The confirmation fails by itself."""

    def on_violation(self, error: PermissionDenied) -> None:
        asked = ("subscribe", self._pattern, self._queue)
        if (error.verb, error.subject, error.queue) == asked and not self._refused.done():
            self._refused.set_exception(error)

    def on_complaint(self, text: str) -> None:
        if complaints.about_subscriptions(text) and not self._refused.done():
            self._refused.set_exception(PermissionDenied(text, verb="subscribe", subject=self._pattern))
