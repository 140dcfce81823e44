"""Stored messages read straight from any copy of a stream (direct get), one or the last of many subjects.

A stream that does not allow it has nobody who answers: then, and where a role may not ask, the API answers instead.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import orjson

from broker.backends.nats.api import TIMEOUT
from broker.backends.nats.convert import moment
from broker.backends.nats.lanes import in_every_form, may_be_filed, shows
from broker.backends.nats.pages import DIRECT, MOST, MOST_BYTES, Page, TooManySubjects, shown
from broker.backends.nats.runs import Runs
from broker.contracts.errors import NoResponders, PermissionDenied, Unsupported
from broker.contracts.lanes import stored_patterns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from broker.backends.nats.admin import Admin
    from broker.backends.nats.core import NatsCore
    from broker.backends.nats.session import Session
    from broker.contracts.envelopes import Envelope, StoredMessage

UpTo = int | datetime | None
"""The newest message that counts: a sequence, a time, or whatever is there."""

_AT_ONCE: Final = 512
"""Subjects named in one request; the server refuses a request that finds over 1024."""


class Direct:
    """Reads; remembers which streams a role may not read directly."""

    def __init__(self, session: Session, core: NatsCore, admin: Admin) -> None:
        self._session = session
        self._core = core
        self._admin = admin
        self._denied: set[str] = set()
        self.get_many = Runs(session, core, admin, self._denied).get_many

    async def get_message(self, stream: str, *, sequence: int | None, last_of: str | None) -> StoredMessage | None:
        """See ``StreamBackend``."""
        reply = None if stream in self._denied else await self._ask(stream, sequence, last_of)
        found = None if reply is None else shown(reply, stream, () if last_of is None else (last_of,))
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
        subject, body = DIRECT + stream, b""
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
        try:
            if stream in self._denied:
                raise NoResponders  # noqa: TRY301 - the same way as when nobody answers
            async for message in self._pages(stream, in_every_form(subjects), subjects, up_to):
                yield message
        except (NoResponders, PermissionDenied) as exc:
            if isinstance(exc, PermissionDenied):
                self._denied.add(stream)
            async for message in self._one_by_one(stream, subjects, up_to):
                yield message
        except TooManySubjects:
            async for message in self._in_parts(stream, subjects, up_to):
                yield message

    async def _one_by_one(self, stream: str, asked: Sequence[str], up_to: UpTo) -> AsyncIterator[StoredMessage]:
        """From the API, which knows nothing of earlier states."""
        if up_to is not None:
            await self._admin.raw_stream(stream)
            raise Unsupported(f"up_to_seq and up_to_time need a stream with allow_direct: {stream!r} has none")
        async for subject in self._expanded(stream, asked):
            message = await self._admin.get_message(stream, sequence=None, last_of=subject)
            if message is not None:
                yield message

    async def _in_parts(self, stream: str, asked: Sequence[str], up_to: UpTo) -> AsyncIterator[StoredMessage]:
        """All of it as of one moment, some hundred subjects at a time."""
        if up_to is None:
            up_to = int((await self._admin.raw_stream(stream))["state"]["last_seq"])
        part: list[str] = []
        async for subject in self._expanded(stream, asked):
            part.append(subject)
            if len(part) == _AT_ONCE:
                async for message in self._pages(stream, part, part, up_to):
                    yield message
                part = []
        if part:
            async for message in self._pages(stream, part, part, up_to):
                yield message

    async def _expanded(self, stream: str, asked: Sequence[str]) -> AsyncIterator[str]:
        """Every subject that is stored, covered and shown, once."""
        seen: set[str] = set()
        for pattern in in_every_form(asked):
            async for subject in self._admin.stored_subjects(stream, pattern):
                if subject not in seen and shows(asked, subject):
                    seen.add(subject)
                    yield subject

    async def _pages(
        self, stream: str, patterns: Sequence[str], asked: Sequence[str], up_to: UpTo
    ) -> AsyncIterator[StoredMessage]:
        """The last of every subject that ``patterns`` cover, as far as whoever asked for ``asked`` is shown it."""
        request: dict[str, Any] = {"multi_last": list(patterns), "batch": MOST, "max_bytes": MOST_BYTES}
        if isinstance(up_to, datetime):
            request["up_to_time"] = moment(up_to)
        elif up_to is not None:
            request["up_to_seq"] = up_to
        while True:
            page = Page(self._session, self._core, stream, asked)
            for message in await page.read(request):
                yield message
            if not page.more:
                return
            request.pop("up_to_time", None)
            request |= {"seq": page.last + 1, "up_to_seq": page.up_to}
