"""A declared durability is compared with what the server does, before the stream is made."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Literal

from broker.contracts.durability import ORDER, Kept, TellsDurability
from broker.contracts.errors import ConfigDrift, InvalidOption
from broker.contracts.options import StreamOptions, one_of

if TYPE_CHECKING:
    from broker.contracts.backend import StreamBackend

log = logging.getLogger("broker")

VARIABLE: Final = "NATS_MONITORING"
"""Names monitoring pages, separated by commas."""
Unproven = Literal["refuse", "warn"]


async def proven(
    streams: Sequence[StreamOptions],
    backend: StreamBackend,
    *,
    ask: bool,
    monitoring: str | Sequence[str] | None,
    unproven: Unproven,
) -> list[StreamOptions]:
    """The streams as the server knows them, once it is sure that it keeps them as declared.

    Without to ``ask`` only the pages that are named are read, if any are.

    Raises:
        ConfigDrift: it does not, or nobody could say that it does; the difference is in ``durability``.
    """
    one_of("unproven", unproven, ("refuse", "warn"))
    promising = [each for each in streams if isinstance(each, StreamOptions) and each.durability is not None]
    pages = _pages(monitoring)
    if promising and (ask or pages):
        _compare(promising, await _kept(backend, pages), unproven)
    return [replace(each, durability=None) if each in promising else each for each in streams]


def _compare(promising: Sequence[StreamOptions], kept: Kept, unproven: Unproven) -> None:
    for options in promising:
        if ORDER.index(kept.level) >= ORDER.index(options.durability or "none"):
            continue
        server = kept.level if kept.told else "unknown"
        drift = ConfigDrift(
            options.name, {"durability": (options.durability, server)}, stream=options.name, hint=f" ({kept.why})"
        )
        if unproven == "refuse":
            raise drift
        log.warning("%s", drift)


async def _kept(backend: StreamBackend, pages: Sequence[str]) -> Kept:
    if isinstance(backend, TellsDurability):
        return await backend.durability(pages)
    return Kept("none", told=False, why="this backend does not tell")


def _pages(monitoring: str | Sequence[str] | None) -> list[str]:
    told = os.environ.get(VARIABLE, "") if monitoring is None else monitoring
    pages = told.split(",") if isinstance(told, str) else told
    if not isinstance(pages, Sequence) or not all(isinstance(each, str) for each in pages):
        raise InvalidOption(f"monitoring={monitoring!r}: must be a URL or several", option="monitoring")
    return [each.strip() for each in pages if each.strip()]
