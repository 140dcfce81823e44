"""A recess: for a while nothing is begun and nothing asked for, because what everybody needs is not there."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from broker.contracts.events import ConsumerEventKind
from broker.contracts.failure import decide
from broker.handling import text_of
from broker.settling import AttemptsExhausted, where

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from broker.announcing import Announcer
    from broker.contracts.options import ConsumeOptions
    from broker.interruptible import Interruptible
    from broker.messages import StreamMessage
    from broker.supply import Supply

log = logging.getLogger("broker.consuming")


class Recess:
    """Called by a failing handler, over by itself; a message that waits for its end has not used another attempt.

    Attributes:
        on: whether it is on now.
    """

    def __init__(self, options: ConsumeOptions, announcer: Announcer, waits: Interruptible) -> None:
        self.on = False
        self._options = options
        self._announcer = announcer
        self._waits = waits
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._ended = False

    def called_for(self, message: StreamMessage, error: BaseException) -> bool:
        """Whether that error asks for a recess; then it has begun. One that is on already is not prolonged."""
        if message.settled or isinstance(error, AttemptsExhausted):
            return False
        if decide(self._options.on_error, error) != "pause":
            return False
        if not self.on and not self._ended:
            log.warning(
                "pausing %g s: handler failed on %s: %s: %s",
                self._options.pause_for,
                where(message.delivery),
                type(error).__name__,
                text_of(error),
            )
            self.on = True
            self._over.clear()
            self._timer = self._loop.call_later(self._options.pause_for, self._resume)
            self._announcer.tell(ConsumerEventKind.PAUSED, f"{type(error).__name__}: {text_of(error)}")
            self._waits.interrupt()
        return True

    async def over(self, timeout: float | None = None) -> bool:
        """Wait for its end; ``False`` when it is still on after ``timeout`` seconds."""
        if self.on:
            try:
                async with asyncio.timeout(timeout):
                    await self._over.wait()
            except TimeoutError:
                return False
        return True

    def end(self) -> None:
        """The consumption is coming to its end: whoever waits goes on at once, and there is no other recess."""
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
        self.on = False
        self._over.set()

    def _resume(self) -> None:
        self.on = False
        self._over.set()
        self._announcer.tell(ConsumerEventKind.RESUMED)


class PatientHandler:
    """An ``async def`` handler that begins nothing during a recess and tries again what made it necessary."""

    def __init__(self, handler: Callable[[StreamMessage], Awaitable[Any]], recess: Recess, supply: Supply) -> None:
        self._handler = handler
        self._recess = recess
        self._supply = supply

    async def __call__(self, message: StreamMessage) -> None:
        """Handle it; a message that leaves its recess because the consumption ends is given back."""
        while True:
            await self._recess.over()
            if self._supply.stopping:
                await self._supply.leave(message)
                return
            try:
                await self._handler(message)
            except Exception as exc:
                if not self._recess.called_for(message, exc):
                    raise
                self._supply.backend.stats.handler_errors += 1
            else:
                return
