"""The pulse of a process: that it lives, what it has counted, what its connection is doing."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Self

from loadtest.chaos.histories import Op
from loadtest.soak.vitals import rss

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker import Broker
    from loadtest.chaos.histories import History

_EVERY: Final = 0.5


class Pulse:
    """Writes it down while the ``async with`` block runs, and once more at its end."""

    def __init__(self, broker: Broker, history: History, counts: Callable[[], dict[str, float]]) -> None:
        self._broker = broker
        self._history = history
        self._counts = counts
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.ensure_future(self._beat()), asyncio.ensure_future(self._follow())]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        self._write()

    def _write(self) -> None:
        counts = {"rss": float(rss()), "reconnects": float(self._broker.stats.reconnects), **self._counts()}
        self._history.write(Op.BEAT, counts=counts)

    async def _beat(self) -> None:
        while True:
            self._write()
            await asyncio.sleep(_EVERY)

    async def _follow(self) -> None:
        async for status in self._broker.status_changes():
            self._history.write(Op.STATUS, told=status)
