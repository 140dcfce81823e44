"""Bugs planted to see them found. What is wrong in a handler is written where the handler is; this is the rest."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING
from unittest.mock import patch

from broker import enqueueing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loadtest.sim.shape import Plant


@contextmanager
def planted(plant: Plant | None) -> Iterator[None]:
    """Within, the library has the bug, if it is one of the library's."""
    if plant != "unscoped-key":
        yield
        return
    with patch.object(enqueueing, "wire_id", lambda _subject, key: key):
        yield
