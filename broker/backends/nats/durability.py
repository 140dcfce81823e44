"""Whether stored means on the disk: said by a server on its monitoring page alone, never to its clients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import orjson

from broker.contracts.durability import Kept

if TYPE_CHECKING:
    from collections.abc import Sequence

_PATIENCE: Final = 3.0
"""Seconds for one page."""
_PORT: Final = 8222


async def durability_of(monitoring: Sequence[str], *, ours: bool) -> Kept:
    """The least that any of the servers does; ``ours``: there is one, and we started it."""
    if ours:
        return Kept("fsync", told=True, why="a server of our own syncs every write")
    if not monitoring:
        return Kept("os", told=False, why="NATS servers tell it on their monitoring pages only; none was named")
    least = Kept("fsync", told=True, why="sync_interval: always")
    for url in monitoring:
        found = await _told_on(url)
        if found.level != "fsync":
            least = found if not found.told or least.level == "fsync" else least
    return least


async def _told_on(url: str) -> Kept:
    from broker.server.wire import http_get  # noqa: PLC0415 - no server is started; only its reader of pages is used

    where = place_of(url)
    try:
        host, port = address_of(url)
    except ValueError as exc:
        return Kept("os", told=False, why=f"{where}: {exc}")
    try:
        fine, said = await http_get(host, port, "/varz", timeout=_PATIENCE)
        page: Any = orjson.loads(said) if fine else None
        config = page["jetstream"]["config"] if page is not None else None
    except (OSError, ValueError, KeyError, TypeError) as exc:
        return Kept("os", told=False, why=f"{where}: {str(exc) or 'no answer in time'}")
    if not config:
        return Kept("os", told=False, why=f"{where} says nothing of JetStream")
    if config.get("sync_always"):
        return Kept("fsync", told=True, why="sync_interval: always")
    seconds = config.get("sync_interval", 0) / 1e9
    return Kept("os", told=True, why=f"{where} syncs every {seconds:g} s; set sync_interval: always")


def place_of(url: str) -> str:
    """A page's place as it may be shown: whatever stands before an @ is left out, with a / in it or not."""
    return url.rpartition("@")[2].rpartition("://")[2].rstrip("/")


def address_of(url: str) -> tuple[str, int]:
    """Host and port of a page.

    Raises:
        ValueError: there are none; its text quotes nothing.
    """
    try:
        split = urlsplit(url if "://" in url else f"http://{url}")
        host, port = split.hostname or "", split.port or _PORT
    except ValueError:
        raise ValueError("its URL is malformed; write / in a password as %2F") from None
    return host, port
