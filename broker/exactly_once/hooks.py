"""Named points at which tests and chaos runs do harm: a worker that dies there must cost nothing.

``before_commit``, ``after_commit``: of a transaction with messages in it. ``mid_batch``: some of a batch is written.
``before_mark``: rows of a relay are stored and not marked. ``before_ack`` and ``after_ack`` are not here: who does harm
there wraps the source that acks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_hooks: list[Callable[[str], None]] = []


def install(hook: Callable[[str], None]) -> None:
    """Call it with the name of every point that is reached, for as long as this process lives."""
    _hooks.append(hook)


def reached(point: str) -> None:
    """This point, now."""
    for hook in _hooks:
        hook(point)
