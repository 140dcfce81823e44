"""A broker's life: open, draining, closed; and how it ends without leaving anything half-done."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Final

from broker.contracts.errors import BrokerClosed, BrokerError
from broker.contracts.status import Status

if TYPE_CHECKING:
    from broker.contracts.backend import CoreBackend
    from broker.roster import Drainable, Roster

log = logging.getLogger("broker")

_LAST_FLUSH: Final = (0.1, 2.0)
"""Seconds that closing waits for what was sent to reach the server: at least, also when a drain has used up its time,
and at most."""


class Lifetime:
    """From connected to closed, in the event loop it began in."""

    def __init__(self, backend: CoreBackend, roster: Roster) -> None:
        self._backend = backend
        self._roster = roster
        self._draining = False
        self._finishing = 0
        self._closing: asyncio.Task[None] | None = None
        backend.board.live_in(asyncio.get_running_loop())

    @property
    def status(self) -> Status:
        """The connection's, but ``draining`` as soon as the end has begun."""
        status = self._backend.board.status
        return Status.DRAINING if self._draining and status is Status.CONNECTED else status

    def check_open(self) -> None:
        """Refuse new work when the end has begun.

        Raises:
            BrokerClosed, Unauthorized, Unsupported (another event loop).
        """
        self.check_loop()
        self._backend.board.check_open()
        if self._draining:
            raise BrokerClosed

    def check_loop(self) -> None:
        """See ``StatusBoard``."""
        self._backend.board.check_loop()

    async def admit(self, newcomer: Drainable) -> None:
        """Let it work until the end; one that was still opening when the end began is brought to its own.

        Raises:
            BrokerClosed, Unauthorized, Unsupported (another event loop).
        """
        try:
            self.check_open()
        except BrokerError:
            await newcomer.drain(0)
            raise
        self._roster.drainables.add(newcomer)

    async def drain(self, timeout: float) -> None:
        """As ``Broker.drain`` promises it."""
        self.check_loop()
        if not self._finishing:
            if self._draining or self.status in {Status.CLOSED, Status.UNAUTHORIZED}:
                await self.aclose()
                return
            self._draining = True
            self._backend.board.announce(Status.DRAINING)
        deadline = asyncio.get_running_loop().time() + timeout
        self._finishing += 1  # who comes while others wait joins them, so that none waits for another
        try:
            async with asyncio.timeout(timeout):
                await self._roster.finish(timeout)
        except TimeoutError:
            log.warning("drain: not finished after %g s; cancelling what still runs", timeout)
        finally:
            self._finishing -= 1
            await self._end_by(deadline)

    async def aclose(self) -> None:
        """As ``Broker.aclose`` promises it.

        Closed once, for everybody who asks: whoever is cancelled while waiting for it is let go at once, and the
        closing goes on to its end by itself.
        """
        self.check_loop()
        await self._end_by(inf)

    async def _end_by(self, deadline: float) -> None:
        self._draining = True
        if self._closing is None or self._closing.cancelled():
            closing = self._close(asyncio.current_task(), deadline)
            self._closing = asyncio.get_running_loop().create_task(closing, name="close broker")
        await asyncio.shield(self._closing)

    async def _close(self, caller: asyncio.Task[object] | None, deadline: float) -> None:
        try:
            await self._roster.abandon(caller)
            if self._backend.board.status is Status.CONNECTED:
                shortest, longest = _LAST_FLUSH
                left = max(shortest, deadline - asyncio.get_running_loop().time())
                with suppress(BrokerError):
                    await self._backend.flush(timeout=min(left, longest))
        finally:
            await self._backend.close()
