"""What a call costs the thread that makes it; plain arithmetic, to tell what it would have cost anybody."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

_LONG: Final = 0.001
"""Seconds of a call that are worth asking what they were spent on."""
_SUMMANDS: Final = range(4_000)
_FEW: Final = range(400)
_SCHEDULED: Final = Path("/proc/thread-self/schedstat")


class Processor:
    """What the system tells of this thread; seconds."""

    def __init__(self) -> None:
        try:
            self._file: int | None = os.open(_SCHEDULED, os.O_RDONLY)
        except OSError:
            self._file = None

    def waited(self) -> float:
        """For how long it has been ready and waiting for a processor; 0 where the system does not tell."""
        return 0.0 if self._file is None else int(os.pread(self._file, 64, 0).split()[1]) / 1e9

    @staticmethod
    def worked() -> float:
        """How long it has had one."""
        return time.thread_time()

    @staticmethod
    def slept() -> int:
        """How often it has gone to sleep by itself; on a system that does not tell, always more often than before."""
        if not hasattr(resource, "RUSAGE_THREAD"):
            return time.perf_counter_ns()
        return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


class Call(NamedTuple):
    """What is known at the beginning of one."""

    at: float
    waited: float
    worked: float
    slept: int

    @classmethod
    def begins(cls, processor: Processor) -> Call:
        """Now."""
        return cls(time.perf_counter(), processor.waited(), processor.worked(), processor.slept())

    def cost(self, took: float, processor: Processor) -> float:
        """Of its ``took`` seconds, those in which the caller was held up by it."""
        if processor.slept() == self.slept:
            return min(took, processor.worked() - self.worked)
        return took - (processor.waited() - self.waited)


class Longest:
    """The longest of many calls; seconds.

    Attributes:
        cost: see ``Call``.
        wall: by the clock on the wall.
    """

    def __init__(self, processor: Processor) -> None:
        self.cost = 0.0
        self.wall = 0.0
        self._processor = processor

    def of(self, call: Callable[[], object]) -> None:
        """Make one more."""
        begun = Call.begins(self._processor)
        call()
        took = time.perf_counter() - begun.at
        self.wall = max(self.wall, took)
        if took > _LONG:
            took = begun.cost(took, self._processor)
        self.cost = max(self.cost, took)


def arithmetic() -> int:
    """What nothing of ours can hold up; some 50 us."""
    return sum(_SUMMANDS)


def little() -> int:
    """The same, about as long as a ``publish_nowait``; some 5 us."""
    return sum(_FEW)
