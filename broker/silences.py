"""Who was silent lately: while a backend is, whoever stores there sends again sooner.

A stream without a leader takes seconds to get another, and a frozen one looks just like it. Who waits patiently for an
answer that will never come misses the moment at which there is somebody to answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from broker.contracts.backend import StreamBackend

SOONER: Final = 1.0
"""Seconds of silence after which, in such a time, the same id is sent once more beside the attempt that waits."""
_LATELY: Final = 10.0
"""Seconds that a silence counts."""

_silent: Final[WeakKeyDictionary[StreamBackend, float]] = WeakKeyDictionary()


def note(backend: StreamBackend, now: float) -> None:
    """An attempt there came to no answer; ``now`` by the event loop's clock."""
    _silent[backend] = now


def lately(backend: StreamBackend, now: float) -> bool:
    """Whether one did a short while ago."""
    at = _silent.get(backend)
    return at is not None and now - at < _LATELY
