"""How a judgement reads: one finding per promise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Collection

_NAMED: Final = 3


class Finding(Struct, frozen=True):
    """One promise, and whether it held.

    Attributes:
        number: ``"I1"`` to ``"I13"``.
        held: ``None`` when this run says nothing about it; ``told`` says why.
    """

    number: str
    promise: str
    held: bool | None
    told: str


def finding(number: str, promise: str, *troubles: str, good: str = "") -> Finding:
    """It held unless there are troubles; empty ones are none."""
    real = [trouble for trouble in troubles if trouble]
    return Finding(number, promise, not real, "; ".join(real) or good)


def named(count_of: str, which: Collection[object]) -> str:
    """How many and the first few of them; empty when there are none."""
    if not which:
        return ""
    some = sorted(" ".join(each) if isinstance(each, tuple) else str(each) for each in which)[:_NAMED]
    return f"{len(which)} {count_of} ({', '.join(some)}{', ...' if len(which) > _NAMED else ''})"
