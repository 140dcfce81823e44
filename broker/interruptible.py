"""Waits of one task that somebody else may cut short without cancelling the task."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable

T = TypeVar("T")


class Interruptible:
    """One wait at a time, for something that loses nothing when it is cancelled."""

    def __init__(self) -> None:
        self._waiting: asyncio.Task[Any] | None = None
        self._interrupted = False

    async def wait(self, awaited: Awaitable[T]) -> T | None:
        """Wait for it; ``None`` when it was interrupted. A real cancellation propagates."""
        task = self._waiting = asyncio.current_task()
        try:
            return await awaited
        except asyncio.CancelledError:
            if not self._interrupted:
                raise
            self._interrupted = False
            assert task is not None, "a coroutine is run by a task"
            task.uncancel()
            return None
        finally:
            self._waiting = None

    def interrupt(self) -> None:
        """Cut the wait short, if there is one."""
        if self._waiting is not None:
            task, self._waiting = self._waiting, None
            self._interrupted = True
            task.cancel()
