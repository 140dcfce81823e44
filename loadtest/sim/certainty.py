"""Every clock and every source of chance that the library asks, turned into functions of the seed."""

from __future__ import annotations

import os
import random
import secrets
import time
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING, Final, Self
from unittest.mock import patch

from broker import letters

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loadtest.sim.loop import VirtualLoop

_BEGIN: Final = 1_800_000_000
"""Seconds since the epoch at which every simulation begins (2027-01-15)."""


class WallClock:
    """The system's clock: it goes with the loop, and can be set."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._offset = 0.0

    def set(self, by: float) -> None:
        """Somebody corrects it by so many seconds, forward or back."""
        self._offset += by

    def now(self) -> float:
        """Seconds since the epoch."""
        return _BEGIN + self._loop.time() + self._offset


@contextmanager
def certainty(seed: int, loop: VirtualLoop) -> Iterator[WallClock]:
    """Within, the same seed sees the same times and the same chance, in any process.

    The event loop's clock is the loop's own business. The memory hub's clock follows the loop by itself. Everything
    else is asked of modules, and answered here: ``time``, ``datetime.now`` where the library calls it, ``random``,
    ``secrets``, and ``os.urandom`` with it ``uuid4``.
    """
    wall = WallClock(loop)
    dice = random.Random(f"bytes {seed}")

    class Now(datetime):
        """``datetime`` with a ``now`` that the wall clock tells."""

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return cls.fromtimestamp(wall.now(), tz or UTC)

    state = random.getstate()
    random.seed(f"library {seed}")
    try:
        with ExitStack() as patched:
            for target, name, stand_in in (
                (time, "time", wall.now),
                (time, "time_ns", lambda: round(wall.now() * 1e9)),
                (time, "monotonic", loop.time),
                (os, "urandom", dice.randbytes),
                (secrets, "token_hex", lambda count=32: dice.randbytes(count).hex()),
                (letters, "datetime", Now),
            ):
                patched.enter_context(patch.object(target, name, stand_in))
            yield wall
    finally:
        random.setstate(state)
