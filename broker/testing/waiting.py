"""Waiting in tests: poll with a deadline instead of sleeping and hoping."""

from __future__ import annotations

import asyncio
import inspect
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar, overload

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

_PAUSES = (0.0005, 0.02)
"""Seconds between questions: from, doubling, to. Most answers come at once; the others can wait."""


@overload
async def eventually(predicate: Callable[[], Awaitable[T | None]], within: float = 15.0) -> T: ...
@overload
async def eventually(predicate: Callable[[], T | None], within: float = 15.0) -> T: ...
async def eventually(predicate: Callable[[], Any], within: float = 15.0) -> Any:
    """The first truthy answer of ``predicate`` (plain or ``async def``), asked again and again.

    Raises:
        AssertionError: still falsy after ``within`` seconds; says what it answered last.
    """
    deadline, pause = monotonic() + within, _PAUSES[0]
    while True:
        answer = await _ask(predicate)
        if answer:
            return answer
        if monotonic() >= deadline:
            raise AssertionError(f"not within {within:g} s; the last answer was {answer!r}")
        await asyncio.sleep(pause)
        pause = min(pause * 2, _PAUSES[1])


async def never(predicate: Callable[[], object], during: float = 0.3) -> None:
    """Return after ``during`` seconds in which ``predicate`` stayed falsy: how absence is proved.

    Raises:
        AssertionError: it answered something truthy; says what.
    """
    deadline = monotonic() + during
    while True:
        answer = await _ask(predicate)
        if answer:
            raise AssertionError(f"should stay away for {during:g} s, but came: {answer!r}")
        if monotonic() >= deadline:
            return
        await asyncio.sleep(_PAUSES[1])


async def _ask(predicate: Callable[[], Any]) -> Any:
    answer = predicate()
    return await answer if inspect.isawaitable(answer) else answer
