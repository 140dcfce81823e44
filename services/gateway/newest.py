"""For a connection that is slower than its room: the newest view only."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from services.events import View


class Newest:
    """Holds one view, the newest; read it with ``async for``. ``put`` is what ``Gateway.join`` takes.

    Attributes:
        superseded: views that a newer one replaced before they were read.
    """

    def __init__(self) -> None:
        self.superseded = 0
        self._view: View | None = None
        self._changed = asyncio.Event()
        self._closed = False

    def put(self, view: View) -> None:
        """Make it the newest."""
        if self._view is not None:
            self.superseded += 1
        self._view = view
        self._changed.set()

    def close(self) -> None:
        """End the reader, after the view that waits. Idempotent."""
        self._closed = True
        self._changed.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> View:
        while self._view is None:
            if self._closed:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        view, self._view = self._view, None
        return view
