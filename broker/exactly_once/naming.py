"""Rows by their names, (subject, key): each is looked up, whatever else is in the table. No I/O."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Collection

    from broker.exactly_once.databases import Kind

    Name = tuple[str, str]
    """A subject, and a key on it."""

NAMES: Final = 1000
"""Names in one statement at most: SQLite takes 32,766 parameters, and a mark is seven."""
_KEPT: Final = 256
"""Conditions kept for as many counts of names."""


def named(kind: Kind, names: Collection[Name]) -> tuple[str, tuple[Any, ...]]:
    """A condition on ``subject`` and ``key`` for a driver's statement, and its values."""
    if kind == "sqlite":
        return _in_values(len(names)), tuple(part for name in names for part in name)
    # As arrays: one plan for any number of them.
    arrays = [subject for subject, _ in names], [key for _, key in names]
    return "(subject, key) IN (SELECT * FROM unnest(%s::text[], %s::text[]))", arrays


@lru_cache(maxsize=_KEPT)
def _in_values(count: int) -> str:
    # IN (VALUES ...) without the SELECT around it would read every row there is, and compare.
    return f"(subject, key) IN (SELECT * FROM (VALUES {', '.join(['(?, ?)'] * count)}))"  # noqa: S608 - placeholders
