"""What a nats-server is started with: pure functions from settings to a configuration text and a command line.

Addresses and the store go on the command line, because nats-server lets it win over the file. So one file
serves a container (host names, fixed ports, /data) and a local start on loopback, unchanged but for ``store_dir``,
which nats-server refuses to hear twice: ``without_store_dir()`` takes it out.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from broker.server.errors import ServerError

if TYPE_CHECKING:
    from pathlib import Path

_INCLUDE_DEPTH = 10
_STORE_KEYS = {"store", "store_dir", "storedir"}  # all three names of the one option
_QUOTES = "\"'"
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - told apart here, not listened on


@dataclass(frozen=True, slots=True, kw_only=True)
class Peering:
    """A server's place in a cluster.

    Attributes:
        port: this server listens on for the others.
        routes: the ports of all of them.
        name: of the cluster; None leaves it to the configuration text.
    """

    port: int
    routes: tuple[int, ...]
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What one server is started with.

    Attributes:
        host: address all its ports listen on.
        port: for clients.
        http_port: for monitoring; None for no monitoring.
        name: server name; None leaves it to the configuration text.
        sync_interval: of JetStream; None leaves it to the configuration text or the server.
        max_payload: in bytes; None leaves it to the configuration text or the server.
        text: configuration text of the caller; a key in it wins over the same key of these settings.
        peering: the place in a cluster; None for a server of its own.
    """

    host: str = "127.0.0.1"
    port: int = 0
    http_port: int | None = None
    name: str | None = None
    sync_interval: str | None = None
    max_payload: int | None = None
    text: str = field(default="", repr=False)  # there are passwords in it
    peering: Peering | None = None


def render(settings: Settings) -> str:
    """Returns the configuration file."""
    sync = f"sync_interval: {json.dumps(settings.sync_interval)}" if settings.sync_interval is not None else ""
    lines = ["# Written at every start; changes here are lost.", f"jetstream {{ {sync} }}"]
    if settings.name is not None:
        lines.append(f"server_name: {json.dumps(settings.name)}")
    if settings.peering is not None and settings.peering.name is not None:
        lines.append(f"cluster {{ name: {json.dumps(settings.peering.name)} }}")
    if settings.max_payload is not None:
        lines.append(f"max_payload: {settings.max_payload}")
    lines.append(settings.text)
    if settings.http_port is not None:
        # Last, because the command line sets the monitoring port but not its address.
        lines.append(f"http: {json.dumps(address(settings.host, settings.http_port))}")
    return "\n".join(lines) + "\n"


def arguments(settings: Settings, *, config: Path, store: Path, log: Path) -> list[str]:
    """Returns the command line after the executable."""
    given = ["-c", str(config), "-l", str(log), "-sd", str(store), "--ports_file_dir", str(store)]
    given += ["-a", settings.host, "-p", str(settings.port)]
    if settings.http_port is not None:
        given += ["-m", str(settings.http_port)]
    if settings.peering is not None:
        given += _peering_arguments(settings, settings.peering)
    return given


def _peering_arguments(settings: Settings, peering: Peering) -> list[str]:
    host = reachable(settings.host)
    routes = ",".join(f"nats-route://{address(host, port)}" for port in peering.routes)
    given = ["--cluster", f"nats://{address(settings.host, peering.port)}", "--routes", routes]
    # What a file advertises to the other containers would lead local clients astray.
    given += ["--cluster_advertise", address(host, peering.port)]
    return [*given, "--client_advertise", address(host, settings.port)]


def reachable(host: str) -> str:
    """Returns where to connect to a server that listens on the host."""
    return _WILDCARDS.get(host, host)


def address(host: str, port: int) -> str:
    """Returns host:port, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# Comments and quoted strings are stepped over, so that nothing inside them is taken for a key. An unquoted value may
# hold "//" (nats-route://...), so a comment has to follow a blank. A quoted key is a key too.
_WORDS = re.compile(
    r"""(?P<skip>\#[^\n]*|(?<!\S)//[^\n]*)
      | (?:(?<=[\s{;,\[])|\A)(?P<quote>["']?)
        (?P<key>store(?:_?dir)?|include)\b(?P=quote)(?:\s*[:=]\s*|[ \t]+)
        (?P<value>"(?:\\.|[^"\\\n])*"|'[^'\n]*'|[^\s,;{}\[\]]+)[ \t]*[;,]?
      | (?P<string>"(?:\\.|[^"\\])*"|'[^']*')
    """,
    re.VERBOSE | re.IGNORECASE,
)


def without_store_dir(text: str) -> str:
    """Returns the configuration text with every ``store_dir`` taken out; all else stays, comments included."""

    def drop(found: re.Match[str]) -> str:
        return "" if (found["key"] or "").lower() in _STORE_KEYS else found.group()

    return _WORDS.sub(drop, text)


def read_config(path: Path, *, _depth: int = _INCLUDE_DEPTH) -> str:
    """Returns the text of a configuration file with the files it includes in their places."""
    if not _depth:
        raise ServerError(f"{path} is included by itself")

    def insert(found: re.Match[str]) -> str:
        if (found["key"] or "").lower() != "include":
            return found.group()
        return f"\n{read_config(path.parent / found['value'].strip(_QUOTES), _depth=_depth - 1)}\n"

    try:
        return _WORDS.sub(insert, path.read_text(encoding="utf-8"))
    except OSError as failed:
        raise ServerError(f"the configuration {path} cannot be read: {failed}") from failed
