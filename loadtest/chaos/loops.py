"""Judges whether a game loop was held up: I8. No I/O, and nothing is asked of the library.

Two things are measured, and each has a control beside it that the library has no part in. Where the control missed the
bar as well, the machine did it, and nothing is said about the library; one thing excused excuses not the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from loadtest.chaos.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from loadtest.chaos.plan import Limits

PROMISE: Final = "a game loop is never held up"
_SHARE: Final = 0.5
"""Of the game loop's lateness, what an empty loop must show as well: more than half of it is the machine's then."""


class Held(NamedTuple):
    """What held loops up; seconds.

    Attributes:
        call: the longest ``publish_nowait``; ``wall``: by the clock on the wall.
        plain: the longest plain arithmetic beside the calls.
        stall: 999 turns of 1,000 were not later than this.
        idle: nor those of an empty loop beside it; ``None`` where none ran.
    """

    call: float
    wall: float
    plain: float
    stall: float
    idle: float | None = None


class _Part(NamedTuple):
    """One of the two, judged: ``held`` as in ``Finding``."""

    held: bool | None
    told: str


def seen(counts: Iterable[Mapping[str, float]]) -> Held | None:
    """What the last counts of all processes say; ``None`` when no game loop is among them."""
    loops, idle = [], []
    for each in counts:
        if "call_max" in each:
            loops.append(each)
        elif "stall" in each:
            idle.append(each["stall"])
    if not loops:
        return None
    call, wall, plain, stall = (
        max(each.get(which, 0.0) for each in loops) for which in ("call_max", "call_wall", "plain_max", "stall")
    )
    return Held(call, wall, plain, stall, min(idle, default=None))


def concluded(held: Held, limits: Limits) -> Finding:
    """The finding: broken if one thing is, not judged if one is the machine's, and what there is to tell of both."""
    parts = [_call(held, limits.call), _lateness(held, limits.stall)]
    each = {part.held for part in parts}
    if False in each:
        return Finding("I8", PROMISE, False, _told(part for part in parts if not part.held))  # what was fine is no news
    return Finding("I8", PROMISE, None if None in each else True, _told(parts))


def _told(parts: Iterable[_Part]) -> str:
    return "; ".join(part.told for part in parts)


def _call(held: Held, bar: float) -> _Part:
    if held.call <= bar:
        kept = f" ({_ms(held.wall)} with what the machine kept from it)" if held.wall > bar else ""
        return _Part(held=True, told=f"longest publish_nowait {_ms(held.call)}{kept}")
    took = f"one publish_nowait took {_ms(held.call)}"
    if held.call <= held.plain:
        return _Part(held=None, told=f"{took}, but so did plain arithmetic beside it ({_ms(held.plain)}): the machine")
    return _Part(held=False, told=took)


def _lateness(held: Held, bar: float) -> _Part:
    idle = "" if held.idle is None else f", an empty loop beside it {_ms(held.idle)}"
    if held.stall <= bar:
        return _Part(held=True, told=f"p99.9 of the loop's lateness {_ms(held.stall)}{idle}")
    late = f"the loop was {_ms(held.stall)} late"
    if held.idle is not None and held.idle > max(bar, held.stall * _SHARE):
        return _Part(held=None, told=f"{late}, but so was an empty loop beside it ({_ms(held.idle)}): the machine")
    return _Part(held=False, told=late + idle)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"
