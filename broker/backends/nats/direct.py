"""Stored messages read straight from any copy of a stream (direct get), one or the last of many subjects.

A stream that does not allow it has nobody who answers: then, and where a role may not ask, the API answers instead.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import orjson

from broker.backends.nats.api import PREFIX, TIMEOUT
from broker.backends.nats.convert import moment, timestamp_ns
from broker.backends.nats.lanes import in_every_form, may_be_filed
from broker.backends.nats.replies import NO_RESPONDERS
from broker.contracts.envelopes import Envelope, StoredMessage
from broker.contracts.errors import (
    ApiError,
    ConnectionLost,
    NoResponders,
    PermissionDenied,
    RequestTimeout,
    Unsupported,
)
from broker.contracts.lanes import place_of, stored_patterns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from broker.backends.nats.admin import Admin
    from broker.backends.nats.core import NatsCore
    from broker.backends.nats.session import Session
    from broker.contracts.headers import Headers
    from broker.contracts.status import Status

UpTo = int | datetime | None
"""The newest message that counts: a sequence, a time, or whatever is there."""

_DIRECT: Final = f"{PREFIX}DIRECT.GET."
_PAGE: Final = 256
_PAGE_BYTES: Final = 4 << 20
_AT_ONCE: Final = 512
"""Subjects named in one request; the server refuses a request that finds over 1024."""
_END: Final = 204
_NOT_FOUND: Final = 404
_TOO_MANY: Final = 413


class _TooManySubjects(Exception):
    """The server does not answer for so many subjects at once."""


class Direct:
    """Reads; remembers which streams a role may not read directly."""

    def __init__(self, session: Session, core: NatsCore, admin: Admin) -> None:
        self._session = session
        self._core = core
        self._admin = admin
        self._denied: set[str] = set()

    async def get_message(self, stream: str, *, sequence: int | None, last_of: str | None) -> StoredMessage | None:
        """See ``StreamBackend``."""
        reply = None if stream in self._denied else await self._ask(stream, sequence, last_of)
        found = None if reply is None else _stored(reply, stream)
        if found is not None:
            return found
        if reply is not None and not self._core.clustered:
            if last_of is None or not may_be_filed(last_of):
                return None
            return await self.get_message(stream, sequence=None, last_of=stored_patterns((last_of,))[0])
        try:  # whoever answered for a cluster may not have it yet: its leader knows
            return await self._admin.get_message(stream, sequence=sequence, last_of=last_of)
        except PermissionDenied:
            if reply is None:
                raise
            return None

    async def _ask(self, stream: str, sequence: int | None, last_of: str | None) -> Envelope | None:
        """A copy's answer; ``None`` where none may or wants to give one.

        The last of one subject is asked for in the request's own subject: roles may be granted it subject by subject.
        """
        subject, body = _DIRECT + stream, b""
        if sequence is not None:
            body = orjson.dumps({"seq": sequence})
        elif last_of is not None and "*" not in last_of and ">" not in last_of:
            subject = f"{subject}.{last_of}"
        else:
            body = orjson.dumps({"last_by_subj": last_of})
        left = await self._session.connected_within(TIMEOUT)
        try:
            return await self._core.call(subject, body, None, left)
        except NoResponders:
            return None
        except PermissionDenied:
            if body:
                self._denied.add(stream)
            return None

    async def get_last_many(self, stream: str, subjects: Sequence[str], up_to: UpTo) -> AsyncIterator[StoredMessage]:
        """See ``StreamBackend``; with lanes, the last of each key."""
        subjects = in_every_form(subjects)
        try:
            if stream in self._denied:
                raise NoResponders  # noqa: TRY301 - the same way as when nobody answers
            async for message in self._pages(stream, subjects, up_to):
                yield message
        except (NoResponders, PermissionDenied) as exc:
            if isinstance(exc, PermissionDenied):
                self._denied.add(stream)
            async for message in self._one_by_one(stream, subjects, up_to):
                yield message
        except _TooManySubjects:
            async for message in self._in_parts(stream, subjects, up_to):
                yield message

    async def _one_by_one(self, stream: str, subjects: Sequence[str], up_to: UpTo) -> AsyncIterator[StoredMessage]:
        """From the API, which knows nothing of earlier states."""
        if up_to is not None:
            await self._admin.raw_stream(stream)
            raise Unsupported(f"up_to_seq and up_to_time need a stream with allow_direct: {stream!r} has none")
        async for subject in self._expanded(stream, subjects):
            message = await self._admin.get_message(stream, sequence=None, last_of=subject)
            if message is not None:
                yield message

    async def _in_parts(self, stream: str, subjects: Sequence[str], up_to: UpTo) -> AsyncIterator[StoredMessage]:
        """All of it as of one moment, some hundred subjects at a time."""
        if up_to is None:
            up_to = int((await self._admin.raw_stream(stream))["state"]["last_seq"])
        part: list[str] = []
        async for subject in self._expanded(stream, subjects):
            part.append(subject)
            if len(part) == _AT_ONCE:
                async for message in self._pages(stream, part, up_to):
                    yield message
                part = []
        if part:
            async for message in self._pages(stream, part, up_to):
                yield message

    async def _expanded(self, stream: str, subjects: Sequence[str]) -> AsyncIterator[str]:
        """Every subject that is stored and covered, once."""
        seen: set[str] = set()
        for pattern in subjects:
            async for subject in self._admin.stored_subjects(stream, pattern):
                if subject not in seen:
                    seen.add(subject)
                    yield subject

    async def _pages(self, stream: str, subjects: Sequence[str], up_to: UpTo) -> AsyncIterator[StoredMessage]:
        request: dict[str, Any] = {"multi_last": list(subjects), "batch": _PAGE, "max_bytes": _PAGE_BYTES}
        if isinstance(up_to, datetime):
            request["up_to_time"] = moment(up_to)
        elif up_to is not None:
            request["up_to_seq"] = up_to
        while True:
            page = _Page(self._session, self._core, stream)
            for message in await page.read(request):
                yield message
            if not page.more:
                return
            request.pop("up_to_time", None)
            request |= {"seq": page.last + 1, "up_to_seq": page.up_to}


class _Page:
    """The answer to one request for many: messages, then a word that these were all, or how to go on."""

    def __init__(self, session: Session, core: NatsCore, stream: str) -> None:
        self._session = session
        self._core = core
        self._stream = stream
        self._arrived: asyncio.Queue[Envelope | None] = asyncio.Queue()
        self.more = False
        self.last = 0
        self.up_to = 0

    async def read(self, request: dict[str, Any]) -> list[StoredMessage]:
        """Its messages, so that nothing is held on the server while they are looked at.

        ``more`` says whether there is another page, which begins after ``last``.

        Raises:
            NoResponders, _TooManySubjects: nothing was read.
            RequestTimeout, ConnectionLost: the rest did not come.
        """
        subject, inbox = _DIRECT + self._stream, self._session.new_inbox()
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
                message = _stored(reply, self._stream)
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
            raise _TooManySubjects
        if headers.status == _END:
            named = dict(headers.pairs)
            self.more = int(named.get("Nats-Num-Pending") or 0) > 0
            self.last = int(named.get("Nats-Last-Sequence") or 0)
            self.up_to = int(named.get("Nats-UpTo-Sequence") or 0)
            self.more = self.more and self.last > 0
        elif headers.status != _NOT_FOUND:
            raise ApiError(headers.status_text, code=headers.status, subject=subject, stream=self._stream)


def _stored(reply: Envelope, stream: str) -> StoredMessage | None:
    """The message in a direct answer; ``None`` when it says there is none."""
    headers = reply.headers
    if headers is None or headers.status not in {0, _NOT_FOUND}:
        status, words = (headers.status, headers.status_text) if headers is not None else (0, "not a stored message")
        raise ApiError(words, code=status, stream=stream)
    if headers.status == _NOT_FOUND:
        return None
    named = dict(headers.pairs)
    return StoredMessage(
        subject=place_of(named["Nats-Subject"]).subject,
        data=reply.data,
        headers=headers,
        stream=named.get("Nats-Stream") or stream,
        sequence=int(named["Nats-Sequence"]),
        timestamp_ns=timestamp_ns(named["Nats-Time-Stamp"]),
    )
