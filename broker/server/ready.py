"""Whether servers answer: each function returns what is missing in words, and "" when nothing is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from broker.server.config import reachable
from broker.server.errors import ServerError
from broker.server.wire import dial, http_get, shake_hands

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from broker.server.config import Settings

_TIMEOUT = 1.0
_CREATE_TIMEOUT = 2.0
_JETSTREAM_NOT_FOR_ACCOUNT = 10039
_PROBE = "gamebroker-probe"


async def greets(settings: Settings) -> str:
    """The server takes connections."""
    try:
        async with dial(reachable(settings.host), settings.port, timeout=_TIMEOUT):
            return ""
    except TimeoutError:
        return await _shakes_hands(settings)
    except OSError as failed:
        return str(failed)


async def _shakes_hands(settings: Settings) -> str:
    """The server says nothing, but speaks TLS: with ``handshake_first`` that comes before its first word."""
    try:
        await shake_hands(reachable(settings.host), settings.port, timeout=_TIMEOUT)
    except (OSError, TimeoutError):
        return "no answer"
    return ""


async def jetstream_answers(settings: Settings, login: Mapping[str, str] | None) -> str:
    """JetStream answers a request; a server that is closed to this login greets."""
    try:
        async with dial(reachable(settings.host), settings.port, timeout=_TIMEOUT) as wire:
            if wire.closed_to(login):
                return ""
            await wire.log_in(login)
            answer = await wire.request("$JS.API.INFO")
    except TimeoutError:
        return await _shakes_hands(settings)
    except OSError as failed:
        return str(failed)
    # The API answered; that this account may not use it is the configuration's will.
    return "" if _code(answer) == _JETSTREAM_NOT_FOR_ACCOUNT else _error(answer)


async def replicates(settings: Settings, login: Mapping[str, str] | None, replicas: int) -> str:
    """A stream of so many replicas can be made, and is deleted again; a server closed to this login greets."""
    stream = {"name": _PROBE, "subjects": [_PROBE], "num_replicas": replicas, "max_msgs": 1}
    try:
        async with dial(reachable(settings.host), settings.port, timeout=_CREATE_TIMEOUT) as wire:
            if wire.closed_to(login):
                return ""
            await wire.log_in(login)
            await wire.request(f"$JS.API.STREAM.DELETE.{_PROBE}")  # an interrupted probe may have left it
            created = await wire.request(f"$JS.API.STREAM.CREATE.{_PROBE}", stream)
            deleted = await wire.request(f"$JS.API.STREAM.DELETE.{_PROBE}")
    except (OSError, TimeoutError) as failed:
        return str(failed) or "no answer"
    return _error(created) or _error(deleted)


async def is_healthy(settings: Settings, *, assets: bool = True) -> str:
    """The server itself says so: it is current with the meta leader, and so are, as assets, streams and consumers."""
    page = "/healthz" if assets else "/healthz?js-meta-only=true"
    try:
        healthy, said = await _page(settings, page)
    except (OSError, TimeoutError) as failed:
        return str(failed) or "no answer"
    return "" if healthy else said or "no answer"


async def jetstream_room(settings: Settings) -> tuple[int, int]:
    """How many bytes JetStream has on disk, and may have; 0 and 0 when the server does not tell."""
    if settings.http_port is None:
        return 0, 0
    try:
        _, said = await _page(settings, "/jsz")
        told = json.loads(said)
        return int(told["storage"]), int(told["config"]["max_storage"])
    except (OSError, TimeoutError, ValueError, KeyError):
        return 0, 0


async def is_led(nodes: Sequence[Settings]) -> str:
    """All nodes agree that everything they hold is led by one of them; a node that has just died may still be named.

    Health does not tell: after a restart each stream and consumer elects its leader on its own, seconds later.
    """
    try:
        names = {await _name(node) for node in nodes}
        for node in nodes:
            _, said = await _page(node, "/jsz?accounts=true&streams=true&consumers=true")
            if lost := next((name for name, leader in _leaders(json.loads(said)) if leader not in names), None):
                return f"{lost} has no leader"
    except (OSError, TimeoutError, ValueError) as failed:
        return str(failed) or "no answer"
    return ""


def _leaders(told: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "the cluster", told.get("meta_cluster", {}).get("leader", "")
    for account in told.get("account_details") or ():
        for stream in account.get("stream_detail") or ():
            for asset in (stream, *(stream.get("consumer_detail") or ())):
                if "cluster" in asset:
                    yield asset["name"], asset["cluster"].get("leader", "")


async def _name(settings: Settings) -> str:
    async with dial(reachable(settings.host), settings.port, timeout=_TIMEOUT) as wire:
        return str(wire.info["server_name"])


async def _page(settings: Settings, page: str) -> tuple[bool, str]:
    if settings.http_port is None:
        raise ServerError("a server's own account of itself is known only with monitoring=True")
    return await http_get(reachable(settings.host), settings.http_port, page, timeout=_TIMEOUT)


def _code(answer: dict[str, Any]) -> int:
    return int(answer.get("error", {}).get("err_code", 0))


def _error(answer: dict[str, Any]) -> str:
    return str(answer.get("error", {}).get("description", ""))
