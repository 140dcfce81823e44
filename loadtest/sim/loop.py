"""An event loop without waiting: when nothing is ready, time jumps to the next timer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections import deque
    from random import Random

_RESOLUTION: Final = 1e-9
_TURN: Final = 1e-6
"""Seconds a turn takes: where nothing did, what tries until its time is over would try for ever."""
_TURNS: Final = 400_000
"""Turns after which a run is taken to spin for ever."""


class Stuck(Exception):
    """Nothing is ready and no timer is set, or the loop turns and turns: what is awaited never comes."""


class VirtualLoop(asyncio.BaseEventLoop):
    """One thread, no descriptors, no waiting. What a thread does is not decided by a seed, so nothing may ask for one.

    Args:
        chance: decides in which order tasks that could go on at the same moment do so; ``None`` keeps asyncio's order.
            A task's own steps, and callbacks that are no task's step, always keep theirs.

    Attributes:
        turns: how often it has turned.
    """

    def __init__(self, chance: Random | None = None) -> None:
        super().__init__()
        self.turns = 0
        self._now = 0.0
        self._chance = chance
        self._selector = _Leap(self)
        self._clock_resolution = _RESOLUTION

    def time(self) -> float:
        """Seconds since the beginning that nobody has waited for."""
        return self._now

    def leap(self, seconds: float) -> None:
        """Let that much time pass at once, as when a process was stopped: everything due meanwhile is late."""
        self._now += seconds

    def turn(self, timeout: float | None) -> None:
        """Called once a turn, before what is ready runs."""
        self.turns += 1
        if timeout is None or self.turns > _TURNS:
            raise Stuck(f"at {self._now:.3f} s, after {self.turns} turns")
        self._now += max(timeout, _TURN)
        if not timeout and self._chance is not None:
            self._shuffle(self._chance)

    def _shuffle(self, chance: Random) -> None:
        ready: deque[Any] = self.__dict__["_ready"]
        places = [place for place, handle in enumerate(ready) if _is_step(handle)]
        if len(places) < 2 or chance.random() < 0.5:
            return
        handles = list(ready)
        mixed = [handles[place] for place in places]
        chance.shuffle(mixed)
        for place, handle in zip(places, mixed, strict=True):
            handles[place] = handle
        ready.clear()
        ready.extend(handles)

    # What asyncio's own loop asks of the one that does the I/O.

    def _process_events(self, _events: list[object]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass


class _Leap:
    """Stands where a selector would wait."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[object]:
        self._loop.turn(timeout)
        return []


def _is_step(handle: Any) -> bool:
    return isinstance(getattr(handle._callback, "__self__", None), asyncio.Task)  # noqa: SLF001 - a loop knows its handles
