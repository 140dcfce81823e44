"""The reply inbox: one subscription for every call in flight, a counter as token, one timer for all deadlines."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from copy import copy
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Final, Protocol

from msgspec import Struct

from broker.backends.nats.frames import WireHeaders
from broker.contracts.envelopes import Envelope
from broker.contracts.errors import ConnectionLost, NoResponders, PermissionDenied, RequestTimeout

if TYPE_CHECKING:
    from broker.backends.nats.contract import Link
    from broker.contracts.errors import BrokerError

NO_RESPONDERS: Final = 503
_MOST_ANSWERED: Final = 1024
"""Deadlines of answered calls that are kept, beyond twice as many as calls wait."""


class Call(Protocol):
    """One call waiting for its reply. It is told exactly one of the three outcomes, once."""

    subject: str
    deadline: float

    @abstractmethod
    def answer(self, inbox: bytes, data: bytes, block: bytes | None) -> None:
        """The reply is here, on this inbox."""

    @abstractmethod
    def fail(self, error: BrokerError) -> None:
        """There will be no reply."""

    @abstractmethod
    def expire(self) -> None:
        """The deadline passed."""


class Replies:
    """Matches replies to calls. Lives as long as the session, over reconnects."""

    def __init__(self, link: Link, inbox: str) -> None:
        self._link = link
        self._loop = asyncio.get_running_loop()
        self._inbox = inbox
        self._prefix = f"{inbox}.".encode()
        self._skip = len(self._prefix)
        self._calls: dict[bytes, Call] = {}
        self._next = 0
        self._deadlines: list[tuple[float, bytes]] = []
        """A heap of the calls up to number ``_known``; those that were answered leave it later."""
        self._known = 0
        self._sid = 0
        self._timer: asyncio.TimerHandle | None = None
        self._due = float("inf")

    def expect(self, call: Call) -> bytes:
        """Register a call; returns the reply subject to send with it."""
        if not self._sid:
            self._sid = self._link.subscribe(self._prefix + b"*", None, self._receive)
        self._next += 1
        token = b"%d" % self._next
        self._calls[token] = call
        if call.deadline < self._due:
            self._wake_at(call.deadline)
        return self._prefix + token

    def request(self, subject: str, timeout: float) -> tuple[bytes, asyncio.Future[Envelope]]:
        """Expect one reply to what is sent to the subject: the reply subject to send with it, and the reply."""
        answer: asyncio.Future[Envelope] = self._loop.create_future()
        return self.expect(Request(subject, timeout, self._loop.time() + timeout, answer)), answer

    def abandon(self, reply: bytes) -> None:
        """The caller went away; a late reply is nobody's."""
        self._calls.pop(reply[self._skip :], None)

    def _receive(self, subject: bytes, _reply: bytes, data: bytes, block: bytes | None) -> None:
        call = self._calls.pop(subject[self._skip :], None)
        if call is not None:
            call.answer(subject, data, block)

    def _wake_at(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due = deadline
        self._timer = self._loop.call_at(deadline, self._sweep)

    def _sweep(self) -> None:
        """Expire what is due and sleep until the next deadline.

        A call that is answered soon never gets here; one that waits is looked at once when it is new and once at its
        end, however many others wait.
        """
        self._timer = None
        self._due = float("inf")
        self._learn()
        now, calls, deadlines = self._loop.time(), self._calls, self._deadlines
        while deadlines and (deadlines[0][0] <= now or deadlines[0][1] not in calls):
            call = calls.pop(heappop(deadlines)[1], None)
            if call is not None:
                call.expire()
        if deadlines:
            self._wake_at(deadlines[0][0])

    def _learn(self) -> None:
        """Put the calls that are new since the last time, the last ones of all, into the heap."""
        if len(self._deadlines) > _MOST_ANSWERED + 2 * len(self._calls):
            self._deadlines.clear()
            self._known = 0
        for token, call in reversed(self._calls.items()):
            if int(token) <= self._known:
                break
            heappush(self._deadlines, (call.deadline, token))
        self._known = self._next

    def _fail(self, error: BrokerError, subject: str | None = None) -> None:
        failed = [token for token, call in self._calls.items() if subject is None or call.subject == subject]
        for token in failed:
            # Each caller gets an exception of its own: a traceback belongs to one of them.
            self._calls.pop(token).fail(copy(error))

    # -- session events ----------------------------------------------------------------------------------------------

    def on_lost(self) -> None:
        """What was in flight is unknown: say so at once."""
        self._fail(ConnectionLost("the connection broke while waiting for the reply"))

    def on_restored(self) -> None:
        """Nothing was kept."""

    def on_ended(self, error: BrokerError) -> None:
        """No reply will come."""
        self._fail(error)
        if self._timer is not None:
            self._timer.cancel()

    def on_violation(self, error: PermissionDenied) -> None:
        """Fail the calls it is about; without the inbox no reply can come at all."""
        subject = error.subject or ""
        if error.verb == "subscribe" and subject == f"{self._inbox}.*":
            self._link.forget(self._sid)
            self._sid = 0
            self._fail(error)
        elif error.verb == "publish":
            self._fail(error, subject)
            if subject.startswith(f"{self._inbox}."):
                self._fail(error)

    def on_complaint(self, text: str) -> None:
        """Not about a call."""


class Request(Struct, gc=False):
    """A request for one reply; a ``Call``."""

    subject: str
    timeout: float
    deadline: float
    future: asyncio.Future[Envelope]

    def answer(self, inbox: bytes, data: bytes, block: bytes | None) -> None:
        """See ``Call``."""
        if self.future.done():
            return
        headers = None if block is None else WireHeaders(block)
        if headers is not None and headers.status == NO_RESPONDERS and not data:
            self.future.set_exception(NoResponders(f"nobody listens on {self.subject!r}", subject=self.subject))
        else:
            self.future.set_result(Envelope(inbox.decode(), data, headers))

    def fail(self, error: BrokerError) -> None:
        """See ``Call``."""
        if not self.future.done():
            self.future.set_exception(error)

    def expire(self) -> None:
        """See ``Call``."""
        if not self.future.done():
            self.future.set_exception(
                RequestTimeout(f"no reply from {self.subject!r} in {self.timeout:g} s", subject=self.subject)
            )
