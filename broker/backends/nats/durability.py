"""Whether stored means on the disk: said by a server on its monitoring page alone, never to its clients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlsplit

import orjson

from broker.contracts.durability import ORDER, Kept

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_PATIENCE: Final = 3.0
"""Seconds for one page."""
_PORT: Final = 8222


class _Page(NamedTuple):
    """What one server tells of itself.

    Attributes:
        server_id: which server it is.
        name: what its cluster knows it by.
        group: the names of all servers that JetStream of its cluster is kept on; its own when it is alone.
        kept: what it does.
    """

    server_id: str
    name: str
    group: frozenset[str]
    kept: Kept


async def durability_of(monitoring: Sequence[str], connected: Callable[[], str]) -> Kept:
    """The least that any of the servers does, proven when it is theirs that we are connected to.

    Args:
        monitoring: URLs of their pages, of every server of a cluster; a page of another server proves nothing.
        connected: tells the id of the server of this moment.
    """
    if not monitoring:
        return Kept("os", told=False, why="NATS servers tell it on their monitoring pages only; none was named")
    pages = [await _told_on(url) for url in monitoring]
    silent = next((each for each in pages if isinstance(each, Kept)), None)
    if silent is not None:
        return silent
    told = {each.server_id: each for each in pages if isinstance(each, _Page)}
    own = told.get(connected())
    if own is None:
        where = ", ".join(map(place_of, monitoring))
        return Kept("os", told=False, why=f"{where}: not the monitoring page of the server that this is connected to")
    least = min((each.kept for each in told.values()), key=lambda kept: ORDER.index(kept.level))
    missing = own.group - {each.name for each in told.values()}
    if missing and least.level == "fsync":
        return Kept("os", told=False, why=f"no monitoring page was named of {', '.join(sorted(missing))}")
    return least


async def _told_on(url: str) -> _Page | Kept:
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
    try:
        return _read(page, where)
    except (AttributeError, KeyError, TypeError, ValueError):
        return Kept("os", told=False, why=f"{where} is no page of a NATS server that we know")


def _read(page: dict[str, Any], where: str) -> _Page | Kept:
    jetstream, name = page["jetstream"], str(page["server_name"])
    meta = jetstream.get("meta") or {}
    group = {name, *(str(each["name"]) for each in meta.get("replicas") or ())}
    clustered = bool((page.get("cluster") or {}).get("name"))
    if len(group) < int(meta.get("cluster_size") or 0) or (clustered and not meta):
        return Kept("os", told=False, why=f"{where} does not say yet who is in its cluster")
    if jetstream["config"].get("sync_always"):
        kept = Kept("fsync", told=True, why="sync_interval: always")
    else:
        seconds = jetstream["config"].get("sync_interval", 0) / 1e9
        kept = Kept("os", told=True, why=f"{where} syncs every {seconds:g} s; set sync_interval: always")
    return _Page(str(page["server_id"]), name, frozenset(group), kept)


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
