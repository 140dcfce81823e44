"""What one source has in hand and on its way: an inbox, the pulls out on it, the buffer, and who waits for it."""

from __future__ import annotations

import asyncio
from collections import deque
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from broker.backends.nats import ack_subject, frames, statuses
from broker.backends.nats.convert import nanoseconds
from broker.backends.nats.frames import WireHeaders
from broker.backends.nats.pulls import Bytes, Pulls
from broker.backends.nats.statuses import Verdict
from broker.contracts.envelopes import Delivery
from broker.contracts.errors import ApiError, BrokerError, ConsumerNotFound
from broker.contracts.lanes import STORED, place_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.backends.nats.ack_subject import Numbers
    from broker.backends.nats.session import Session
    from broker.contracts.events import Observe

_GRACE: Final = 2
"""Heartbeats a pull may be overdue before it is taken as over."""
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 0.5


@dataclass(frozen=True, slots=True)
class Rhythm:
    """Seconds a pull waits on the server, and between its signs of life.

    Two missed signs and a look at the consumer: a deletion nobody told us of is noticed within about 3 s.
    """

    expires: float = 30.0
    heartbeat: float = 1.0
    tick: float | None = None
    """Seconds between looks at what is buffered; ``None``: with every heartbeat."""


class Intake:
    """Asks for messages within the caller's room and keeps what arrives.

    ``examine`` is called when nobody took a pull: the consumer may be gone.
    """

    def __init__(
        self, session: Session, stream: str, consumer: str, rhythm: Rhythm, examine: Callable[[], None]
    ) -> None:
        self.stream = stream
        self.consumer = consumer
        self.target = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self.buffer: deque[Delivery] = deque()
        self.failure: BrokerError | None = None
        self.heard = False
        self.received = 0
        self.observe: Observe | None = None
        self._session = session
        self._examine = examine
        self._loop = asyncio.get_running_loop()
        self._next = self.target.encode()
        self._expires = rhythm.expires
        self._heartbeat = rhythm.heartbeat
        self._largest: int | None = None
        self._bytes = Bytes()
        self._more = b""
        self._pulls = Pulls()
        self._inbox = b""
        self._sid = 0
        self._retired = 0
        self._waiters: list[asyncio.Future[None]] = []
        self._wanted = 0
        self._numbers: Callable[[bytes], Numbers] = ack_subject.unread
        self._pause = _FIRST_PAUSE
        self._again: asyncio.TimerHandle | None = None

    # -- asking -------------------------------------------------------------------------------------------------------

    @property
    def owed(self) -> int:
        """Messages asked for that may still come."""
        return self._pulls.owed

    @property
    def waited_for(self) -> bool:
        """Whether a fetch waits for something to arrive."""
        return bool(self._waiters)

    @property
    def beats(self) -> bool:
        """Whether the server gives signs of life."""
        return True

    @property
    def keeps(self) -> bool:
        """Whether what nobody fetches stays here rather than being given back."""
        return False

    @property
    def pinned_in(self) -> str | None:
        """The priority group in which this is the one that is served."""
        return None

    @property
    def inbox_pattern(self) -> str:
        """What is subscribed to now."""
        return f"{self._inbox.decode()}*"

    def allow_bytes(self, max_bytes: int | None) -> None:
        """Ask for no more bytes than that at a time."""
        self._bytes.wanted = max_bytes

    async def arrival(self, limit: int, timeout: float) -> None:
        """Ask for ``limit`` messages and wait until one is here, something failed, or the time is up."""
        waiter: asyncio.Future[None] = self._loop.create_future()
        timer = self._loop.call_later(timeout, _finish, waiter)
        self._waiters.append(waiter)
        self._wanted = limit
        self.top_up(limit)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiters.remove(waiter)

    def top_up(self, room: int) -> None:
        """Ask for what fits into the room beside what is here or on its way; half of it at least, or not at all."""
        pulls = self._pulls
        credit = room - len(self.buffer) - pulls.owed
        if self._bytes.counted and (pulls.owed or self.buffer):
            return  # the server counts the bytes of one request, not of several
        if credit <= 0 or pulls.owed * 2 > room or self._again is not None or self.failure is not None:
            return
        if not self._session.connected:
            return
        if not self._sid:
            self._open_inbox()
        if not pulls.owed:
            self.heard = True
        if self._largest is not None:
            credit = min(credit, self._largest)
        self._pull(self._bytes.fit(credit, self.received), self._bytes.most())

    def _pull(self, count: int, most_bytes: int) -> None:
        heartbeat = min(self._heartbeat, self._expires / 2)
        until = self._loop.time() + self._expires + _GRACE * self._heartbeat
        token = self._pulls.open(count, until)
        body = b'{"batch":%d,"expires":%d,"idle_heartbeat":%d}' % (
            count,
            nanoseconds(self._expires),
            nanoseconds(heartbeat),
        )
        if most_bytes:
            body = b'%b,"max_bytes":%d}' % (body[:-1], most_bytes)
        if self._more:
            body = b"%b%b}" % (body[:-1], self._more)
        self._session.link.send_stream(frames.pub(frames.pub_head(self._next, self._inbox + token), body))

    def show_up(self) -> None:
        """Ask for what nobody could take, and nothing fits in: the server hears that the consumer is in use."""
        nowhere = self._session.new_inbox().encode()
        body = b'{"batch":1,"max_bytes":1,"expires":%d}' % nanoseconds(self._heartbeat)
        self._session.link.send_stream(frames.pub(frames.pub_head(self._next, nowhere), body))

    def ask_again(self) -> None:
        """Ask on behalf of whoever waits."""
        self._again = None
        if self._waiters:
            self.top_up(self._wanted)

    def ask_later(self) -> None:
        """The same after a pause that grows from time to time."""
        if self._again is None and self.failure is None:
            self._again = self._loop.call_later(self._pause, self.ask_again)
            self._pause = min(self._pause * 2, _LONGEST_PAUSE)

    def overdue(self, now: float) -> bool:
        """Pulls whose time is up are over; whether somebody waits for one whose end nobody told."""
        return self._pulls.overdue(now) and self.waited_for

    # -- the inbox ----------------------------------------------------------------------------------------------------

    def _open_inbox(self) -> None:
        self._inbox = f"{self._session.new_inbox()}.".encode()
        self._sid = self._session.link.subscribe(self._inbox + b"*", None, partial(self._receive, self._pulls))

    def renew(self) -> None:
        """Leave the inbox, so that the server drops the pulls that answer to it; what is on its way still counts."""
        self._pulls = Pulls()
        if self._retired:
            self._session.link.forget(self._retired)
        self._retired, self._sid = self._sid, 0
        if self._retired:
            self._session.link.unsubscribe(self._retired)

    def unsubscribe(self) -> bool:
        """Tell the server to stop; ``False`` when there was nothing to stop."""
        if self._sid:
            self._session.link.unsubscribe(self._sid)
        return bool(self._sid)

    def lose(self) -> None:
        """Nothing more can arrive. Pulls die with their inbox: a new one keeps the server from reviving them."""
        self._pulls = Pulls()
        for sid in (self._sid, self._retired):
            if sid:
                self._session.link.forget(sid)
        self._sid = self._retired = 0
        self._pause = _FIRST_PAUSE
        if self._again is not None:
            self._again.cancel()
            self._again = None

    def fail(self, error: BrokerError) -> None:
        """Whoever waits, now or later, gets the error; what is buffered is handed out first."""
        if self.failure is None:
            self.failure = error
        self._pulls.void()
        self._wake()

    def raise_failure(self) -> None:
        """Raise what ``fail`` was told."""
        if self.failure is not None:
            raise copy(self.failure)

    # -- arriving -----------------------------------------------------------------------------------------------------

    def _receive(self, pulls: Pulls, subject: bytes, reply: bytes, data: bytes, block: bytes | None) -> None:
        self.heard = True
        if not reply:
            if block is not None:
                self._status(pulls, subject[len(self._inbox) :], block)
            return
        try:
            attempt, sequence, number, stored, pending = self._numbers(reply)
        except ack_subject.UNREADABLE:  # the first one, or from a server that writes them otherwise than the last
            self._numbers = ack_subject.reader(reply)
            attempt, sequence, number, stored, pending = self._numbers(reply)
        pulls.delivered()
        self.received += 1
        # The server takes any bytes; a subject we could not read would come again for ever.
        name = subject.decode("utf-8", "replace")
        headers = None if block is None else WireHeaders(block)
        key, again = None, False
        if name.startswith(STORED):
            name, key, again = place_of(name)
        buffer, stream, consumer = self.buffer, self.stream, self.consumer
        buffer.append(
            Delivery(
                name, data, headers, stream, consumer, sequence, attempt, stored, pending, reply, number, key, again
            )
        )
        if self._waiters and len(buffer) == 1:
            self._wake()

    def _wake(self) -> None:
        for waiter in self._waiters:
            _finish(waiter)

    def _status(self, pulls: Pulls, token: bytes, block: bytes) -> None:
        """A status instead of a message."""
        status, text = frames.parse_status(block)
        verdict = statuses.judge(status, text)
        if verdict is Verdict.ALIVE:
            self._pause = _FIRST_PAUSE
            return
        if pulls.over(token, statuses.missing(block)) and verdict is not Verdict.TOO_LARGE:
            self._tell(status, text)
        if pulls is self._pulls:
            self._obey(verdict, status, text)

    def _tell(self, status: int, text: str) -> None:
        kind = statuses.event_of(status, text)
        if kind is not None and self.observe is not None:
            self.observe(kind, text)

    def _obey(self, verdict: Verdict, status: int, text: str) -> None:
        if verdict is Verdict.GONE:
            self.fail(ConsumerNotFound(f"consumer {self.consumer!r} was deleted", stream=self.stream))
        elif verdict is Verdict.REFUSED:
            self.fail(ApiError(text, code=status, subject=self.target, stream=self.stream))
        elif verdict is Verdict.CHECK:
            self._examine()
        elif verdict is Verdict.LATER:
            self.ask_later()
        elif verdict is Verdict.MOVED:
            self._pulls.void()
            self.ask_later()
        else:
            if verdict is Verdict.SMALLER:
                self._largest = statuses.allowed_batch(text)
            elif verdict is Verdict.FEWER_BYTES:
                self._bytes.allowed = statuses.allowed_batch(text)
            elif verdict is Verdict.TOO_LARGE and self._bytes.refused(self.received):
                self._tell(status, text)
            elif verdict is Verdict.SHORTER:
                self._expires = statuses.allowed_seconds(text)
            self.ask_again()


def _finish(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
