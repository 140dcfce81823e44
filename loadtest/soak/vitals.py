"""What a process weighs, once a second: memory, tasks, file descriptors, objects."""

from __future__ import annotations

import asyncio
import gc
import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_STATM: Final = Path("/proc/self/statm")
_FDS: Final = Path("/proc/self/fd")
_DEV_FDS: Final = Path("/dev/fd")


@dataclass(frozen=True, slots=True)
class Sample:
    """One look.

    Attributes:
        at: seconds since the load began.
        rss: bytes of memory the system has given to this process and not got back.
        tasks: of the event loop, not done.
        fds: open file descriptors.
        objects: that the garbage collector knows.
        sent: messages sent so far.
    """

    at: float
    rss: int
    tasks: int
    fds: int
    objects: int
    sent: int


def sample(at: float, sent: int) -> Sample:
    """This process, now."""
    return Sample(at, rss(), len(asyncio.all_tasks()), fds(), len(gc.get_objects()), sent)


def rss() -> int:
    """Bytes in memory; where the system does not tell, the most there ever were."""
    try:
        pages = int(_STATM.read_text(encoding="ascii").split()[1])
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
    return pages * resource.getpagesize()


def fds() -> int:
    """Open file descriptors, the one that is needed to look included."""
    return sum(1 for _ in (_FDS if _FDS.exists() else _DEV_FDS).iterdir())


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """From the first window after the warm-up to the last one: medians of each."""

    rss: int
    tasks: int
    fds: int
    objects: int


def growth(samples: Sequence[Sample], *, warm_up: float, window: float) -> Growth:
    """How much the medians differ; a single peak counts for nothing, a step for all of it."""
    warm = [each for each in samples if each.at >= warm_up]
    first = [each for each in warm if each.at < warm_up + window] or list(samples[:1])
    last = [each for each in warm if each.at > samples[-1].at - window] or list(samples[-1:])

    def between(name: str) -> int:
        before, after = (median([getattr(each, name) for each in some]) for some in (first, last))
        return int(after - before)

    return Growth(rss=between("rss"), tasks=between("tasks"), fds=between("fds"), objects=between("objects"))
