"""An even beat for open loops: the kernel's timer, because an event loop's own is only good to a millisecond."""

from __future__ import annotations

import asyncio
import ctypes
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from types import TracebackType

_ABSOLUTE: Final = 1
_NS_PER_SECOND: Final = 1_000_000_000
_LEAD_NS: Final = 50_000_000
"""From starting to the first beat."""


class _TimeSpec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    _fields_ = (("interval", _TimeSpec), ("first", _TimeSpec))


class Metronome:
    """A Linux timerfd on the monotonic clock that every process of the machine shares; a context manager.

    Attributes:
        fd: readable at every beat until it is read; a child process may inherit it.
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        if not hasattr(self._libc, "timerfd_create"):
            raise OSError("one-way latency needs Linux: its timerfd paces the sender")
        self.fd = self._libc.timerfd_create(time.CLOCK_MONOTONIC, 0)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.fd)

    def start(self, period_ns: int) -> int:
        """Beat every so many nanoseconds, and tell when the first beat is (``time.monotonic_ns``)."""
        first = time.monotonic_ns() + _LEAD_NS
        spec = _TimerSpec(_spec(period_ns), _spec(first))
        if self._libc.timerfd_settime(self.fd, _ABSOLUTE, ctypes.byref(spec), None):
            raise OSError(ctypes.get_errno(), "timerfd_settime")
        return first

    def wait(self) -> None:
        """Block until the next beat; at once when one was missed."""
        os.read(self.fd, 8)

    @contextmanager
    def heard(self) -> Iterator[Callable[[], Awaitable[None]]]:
        """A way to await the next beat without blocking the event loop."""
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[None] | None = None

        def due() -> None:
            os.read(self.fd, 8)
            if waiting is not None and not waiting.done():
                waiting.set_result(None)

        def beat() -> asyncio.Future[None]:
            nonlocal waiting
            waiting = loop.create_future()
            return waiting

        loop.add_reader(self.fd, due)
        try:
            yield beat
        finally:
            loop.remove_reader(self.fd)


def _spec(nanoseconds: int) -> _TimeSpec:
    return _TimeSpec(*divmod(nanoseconds, _NS_PER_SECOND))
