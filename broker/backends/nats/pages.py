"""One answer of a stream's copy to a request for many messages, and what a reader is shown of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import orjson

from broker.backends.nats.api import PREFIX, TIMEOUT
from broker.backends.nats.convert import timestamp_ns
from broker.backends.nats.lanes import shows
from broker.backends.nats.replies import NO_RESPONDERS
from broker.contracts.envelopes import Envelope, StoredMessage
from broker.contracts.errors import ApiError, ConnectionLost, NoResponders, RequestTimeout
from broker.contracts.lanes import place_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.backends.nats.core import NatsCore
    from broker.backends.nats.session import Session
    from broker.contracts.headers import Headers
    from broker.contracts.status import Status

DIRECT: Final = f"{PREFIX}DIRECT.GET."
MOST: Final = 256
"""Messages asked for at once."""
MOST_BYTES: Final = 4 << 20
"""Bytes asked for at once."""
_END: Final = 204
_NOT_FOUND: Final = 404
_TOO_MANY: Final = 413


class TooManySubjects(Exception):
    """The server does not answer for so many subjects at once."""


class Page:
    """The answer to one request for many: messages, then a word that these were all, or how to go on.

    Args:
        session: the connection.
        core: what sends and subscribes.
        stream: whose messages.
        asked: the patterns the reader gave.

    Attributes:
        more: whether there is another page.
        last: the sequence after which it begins.
        up_to: the sequence up to which the answer counts; 0 when it has no such end.
    """

    def __init__(self, session: Session, core: NatsCore, stream: str, asked: Sequence[str]) -> None:
        self._session = session
        self._core = core
        self._stream = stream
        self._asked = asked
        self._arrived: asyncio.Queue[Envelope | None] = asyncio.Queue()
        self.more = False
        self.last = 0
        self.up_to = 0

    async def read(self, request: dict[str, Any]) -> list[StoredMessage]:
        """Its messages, so that nothing is held on the server while they are looked at.

        Raises:
            NoResponders, TooManySubjects: nothing was read.
            RequestTimeout, ConnectionLost: the rest did not come.
        """
        subject, inbox = DIRECT + self._stream, self._session.new_inbox()
        interest = await self._core.subscribe(inbox, self._arrived.put_nowait, queue=None)
        stop = self._session.board.watch(self._changed)
        found: list[StoredMessage] = []
        try:
            frame = self._core.frame(subject, inbox.encode(), orjson.dumps(request), None)
            if not self._session.link.send_stream(frame):
                raise self._session.ended() or ConnectionLost("not connected", subject=subject)
            while True:
                reply = await self._next(subject)
                headers = reply.headers
                if headers is not None and headers.status:
                    self._finish(headers, subject)
                    return found
                message = shown(reply, self._stream, self._asked)
                if message is not None:
                    found.append(message)
        finally:
            stop()
            await interest.stop()

    def _changed(self, _status: Status) -> None:
        self._arrived.put_nowait(None)

    async def _next(self, subject: str) -> Envelope:
        try:
            async with asyncio.timeout(TIMEOUT):
                reply = await self._arrived.get()
        except TimeoutError:
            raise RequestTimeout(f"no reply from {subject!r} in {TIMEOUT:g} s", subject=subject) from None
        if reply is None:
            raise self._session.ended() or ConnectionLost("the connection broke while reading", subject=subject)
        return reply

    def _finish(self, headers: Headers, subject: str) -> None:
        if headers.status == NO_RESPONDERS:
            raise NoResponders(f"nobody answers on {subject!r}", subject=subject)
        if headers.status == _TOO_MANY:
            raise TooManySubjects
        if headers.status == _END:
            named = dict(headers.pairs)
            self.more = int(named.get("Nats-Num-Pending") or 0) > 0
            self.last = int(named.get("Nats-Last-Sequence") or 0)
            self.up_to = int(named.get("Nats-UpTo-Sequence") or 0)
            self.more = self.more and self.last > 0
        elif headers.status != _NOT_FOUND:
            raise ApiError(headers.status_text, code=headers.status, subject=subject, stream=self._stream)


def shown(reply: Envelope, stream: str, asked: Sequence[str]) -> StoredMessage | None:
    """The message in a direct answer; ``None`` when it says there is none, or holds what the reader is not shown."""
    headers = reply.headers
    if headers is None or headers.status not in {0, _NOT_FOUND}:
        status, words = (headers.status, headers.status_text) if headers is not None else (0, "not a stored message")
        raise ApiError(words, code=status, stream=stream)
    if headers.status == _NOT_FOUND:
        return None
    named = dict(headers.pairs)
    if not shows(asked, named["Nats-Subject"]):
        return None
    return StoredMessage(
        subject=place_of(named["Nats-Subject"]).subject,
        data=reply.data,
        headers=headers,
        stream=named.get("Nats-Stream") or stream,
        sequence=int(named["Nats-Sequence"]),
        timestamp_ns=timestamp_ns(named["Nats-Time-Stamp"]),
    )
