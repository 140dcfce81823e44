"""Slots for ``async def`` handlers: who runs, who waits for a slot, and how far ahead it is worth fetching."""

from __future__ import annotations

import asyncio
from collections import deque
from math import inf
from typing import TYPE_CHECKING, Any, Final

from broker.handling import HandlerTask

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine

    from broker.messages import StreamMessage
    from broker.settling import ConsumeSettler

    Tasks = Collection[asyncio.Task[None]]
    Handle = Callable[[StreamMessage, ConsumeSettler], Coroutine[None, None, None]]

LAST_WORDS: Final = 1.0
"""Seconds a cancelled handler has to clean up before it is left behind."""
_LOOK: Final = 0.05
"""Seconds between two looks at who has come to wait for the same end."""
_BRISK: Final = 0.002
"""Seconds a handler may take on average for anything to be fetched ahead of free slots."""
_AHEAD: Final = 0.010
"""Seconds that what was fetched ahead may wait for a slot, at the pace of the moment."""
_MEMORY: Final = 0.8
"""How much of the average an earlier handler keeps when another one ends."""


async def finish(tasks: Tasks, timeout: float, this: set[asyncio.Task[Any] | None]) -> None:
    """Let tasks come to an end, but ``this``; cancel those that have not after ``timeout`` seconds."""
    await ended(tasks, timeout, this)
    rest = [task for task in tasks if task not in this]
    for task in rest:
        task.cancel()
    if rest:
        await asyncio.wait(rest, timeout=LAST_WORDS)


async def ended(tasks: Tasks, timeout: float | None, this: set[asyncio.Task[Any] | None]) -> None:
    """Wait for tasks, but ``this``, at most ``timeout`` seconds; both may change meanwhile.

    ``this`` are those who wait for the same end: one that comes to be among them is not waited for any more.
    """
    clock = asyncio.get_running_loop().time
    deadline = inf if timeout is None else clock() + timeout
    while (waited := {task for task in tasks if task not in this and not task.done()}) and (
        left := deadline - clock()
    ) > 0:
        await asyncio.wait(waited, timeout=min(left, _LOOK))


class Slots:
    """So many handlers at once, each in a task of its own.

    Free slots alone decide what is fetched, unless handlers are so brisk that a round trip for a handful of messages
    costs more than handling them: then as many more are fetched as get a slot within 10 ms. One slow handler is enough
    to end that.
    """

    def __init__(self, size: int, most: int, handle: Handle) -> None:
        self._size = size
        self._most_ahead = max(0, most - size)
        self._handle = handle
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[StreamMessage, ConsumeSettler]] = deque()
        self._ahead = 0
        self._pace: float | None = None
        self.tasks: dict[asyncio.Task[None], None] = {}

    def room(self, held: int) -> int:
        """How many more messages may be in hand when ``held`` are."""
        affordable = 0
        if self._pace is not None and self._pace < _BRISK:
            affordable = min(self._most_ahead, int(_AHEAD * self._size / max(self._pace, 1e-6)))
        grown = self._ahead if self._waiting else max(self._size, self._ahead * 2)
        self._ahead = min(affordable, grown)
        return max(0, self._size + self._ahead - held)

    def start(self, message: StreamMessage, settler: ConsumeSettler) -> None:
        """Run its handler now or when a slot is free."""
        if len(self.tasks) < self._size:
            self._run(message, settler)
        else:
            self._waiting.append((message, settler))

    def took(self, seconds: float) -> None:
        """A handler was busy for so long."""
        self._pace = seconds if self._pace is None else self._pace * _MEMORY + seconds * (1 - _MEMORY)

    def take_waiting(self) -> list[tuple[StreamMessage, ConsumeSettler]]:
        """Those that wait for a slot, who will not get one any more."""
        waiting = list(self._waiting)
        self._waiting.clear()
        return waiting

    async def finish(self, timeout: float, this: set[asyncio.Task[Any] | None]) -> None:
        """Let handlers come to an end, but ``this``; cancel those that have not after ``timeout`` seconds."""
        await finish(self.tasks, timeout, this)

    def _run(self, message: StreamMessage, settler: ConsumeSettler) -> None:
        # A task each: what one handler sets in its context is nobody else's.
        task = HandlerTask(self._handle(message, settler), loop=self._loop, name="handle")
        self.tasks[task] = None
        task.add_done_callback(lambda ended: self._done(ended, message, settler))

    def _done(self, task: asyncio.Task[None], message: StreamMessage, settler: ConsumeSettler) -> None:
        self.tasks.pop(task, None)
        if task.cancelled():
            if not message.settled:  # cancelled before its first step: its handler could not give it back
                self._waiting.append((message, settler))
        elif self._waiting:
            self._run(*self._waiting.popleft())
