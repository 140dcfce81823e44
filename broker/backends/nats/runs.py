"""Stored messages read in a run: from a sequence on, gaps skipped, page by page from any copy of the stream.

Where nobody answers directly, or a role may not ask, the API answers instead, one message at a time.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from broker.backends.nats.lanes import may_be_filed
from broker.backends.nats.pages import MOST, MOST_BYTES, Page
from broker.contracts.errors import NoResponders, PermissionDenied
from broker.contracts.lanes import stored_patterns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from broker.backends.nats.admin import Admin
    from broker.backends.nats.core import NatsCore
    from broker.backends.nats.session import Session
    from broker.contracts.envelopes import StoredMessage

_EVERYTHING: Final = ">"


@dataclass(slots=True)
class _Run:
    """How far one has got.

    Attributes:
        asked: the pattern the reader gave.
        pattern: the form of it in which the stream is asked.
        at: the sequence from which it goes on.
        over: whether nothing is left.
    """

    stream: str
    asked: str
    pattern: str
    at: int
    over: bool = False


class Runs:
    """Reads runs of messages.

    Args:
        session: the connection.
        core: what sends and subscribes.
        admin: the API.
        denied: the streams a role may not read directly; what is learned here is noted there.
    """

    def __init__(self, session: Session, core: NatsCore, admin: Admin, denied: set[str]) -> None:
        self._session = session
        self._core = core
        self._admin = admin
        self._denied = denied

    async def get_many(
        self, stream: str, *, start: int, subject: str | None, limit: int, max_bytes: int | None
    ) -> AsyncIterator[StoredMessage]:
        """See ``StreamBackend``."""
        asked, left = subject or _EVERYTHING, limit
        size = min(max_bytes or MOST_BYTES, MOST_BYTES)
        for pattern in _forms(asked):
            run = _Run(stream, asked, pattern, start)
            while left and not run.over:
                for message in await self._page(run, min(left, MOST), size):
                    left -= 1
                    yield message
            if left < limit:
                return

    async def _page(self, run: _Run, limit: int, size: int) -> list[StoredMessage]:
        """The next of a run, in ``limit`` messages of ``size`` bytes together at most; moves the run on."""
        if run.stream in self._denied:
            return await self._next(run)
        page = Page(self._session, self._core, run.stream, (run.asked,))
        try:
            found = await page.read({"seq": run.at, "next_by_subj": run.pattern, "batch": limit, "max_bytes": size})
        except PermissionDenied:
            self._denied.add(run.stream)
            return await self._next(run)
        except NoResponders:
            return await self._next(run)
        run.at, run.over = max(run.at, page.last + 1), not page.more
        if run.over and len(found) < limit and self._core.clustered:
            with suppress(PermissionDenied):  # whoever answered for a cluster may not have it yet: its leader knows
                found += await self._next(run)
        return found

    async def _next(self, run: _Run) -> list[StoredMessage]:
        """One message, from the leader; none when it is not shown, or when there is none and the run is over."""
        sequence, message = await self._admin.next_message(run.stream, run.at, run.pattern, run.asked)
        run.at, run.over = max(run.at, sequence + 1), not sequence
        return [] if message is None else [message]


def _forms(asked: str) -> tuple[str, ...]:
    """The pattern as it is, and what it is in a stream with lanes; everything is everything there, too."""
    if asked == _EVERYTHING or not may_be_filed(asked):
        return (asked,)
    return (asked, stored_patterns((asked,))[0])
