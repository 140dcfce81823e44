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
    """Writes it down while the ``async with`` block runs, and once more at its end.

    Args:
        broker: ``None`` for a process that has no connection, and so no status to tell.
        history: to write it into.
        counts: what it has counted so far.
    """

    def __init__(self, broker: Broker | None, history: History, counts: Callable[[], dict[str, float]]) -> None:
        self._broker = broker
        self._history = history
        self._counts = counts
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.ensure_future(self._beat())]
        if self._broker is not None:
            self._tasks.append(asyncio.ensure_future(self._follow(self._broker)))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        self._write()

    def _write(self) -> None:
        told = {} if self._broker is None else {"reconnects": float(self._broker.stats.reconnects)}
        self._history.write(Op.BEAT, counts={"rss": float(rss()), **told, **self._counts()})

    async def _beat(self) -> None:
        while True:
            self._write()
            await asyncio.sleep(_EVERY)

    async def _follow(self, broker: Broker) -> None:
        async for status in broker.status_changes():
            self._history.write(Op.STATUS, told=status)
