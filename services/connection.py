"""How every service process connects: where, as whom, and whether it may make the streams and consumers it needs."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict, get_args

if TYPE_CHECKING:
    import argparse


Ensure = Literal["verify", "update", "bind"]
"""What a service does about streams and consumers: see ``StreamBroker.consume``."""


class Connection(TypedDict):
    """Arguments of ``Broker.connect``."""

    url: str | None
    user: str | None
    password: str | None
    creds: Path | None
    tls: ssl.SSLContext | None
    inbox_prefix: str | None


class KeyedConnection(Connection):
    """Of ``StreamBroker.connect``: with what makes ids of keys that no other role can tell."""

    id_secret: str | None


def add_connection_options(parser: argparse.ArgumentParser) -> None:
    """The options; each has a variable for its default, and the password is never on a command line."""
    group = parser.add_argument_group("connection")
    group.add_argument("--url", default=None, help="of the server; default NATS_URL, else nats://127.0.0.1:4222")
    group.add_argument(
        "--user",
        default=os.environ.get("NATS_USER"),
        help="with the password in NATS_PASSWORD or --password-file; default NATS_USER",
    )
    group.add_argument("--password-file", type=Path, default=None, metavar="FILE", help="instead of NATS_PASSWORD")
    group.add_argument(
        "--creds",
        type=Path,
        default=_path("NATS_CREDS"),
        metavar="FILE",
        help="credentials file instead of a user; default NATS_CREDS",
    )
    group.add_argument(
        "--ca",
        type=Path,
        default=_path("NATS_CA"),
        metavar="FILE",
        help="connect by TLS only, to a server this authority signed; default NATS_CA",
    )
    group.add_argument(
        "--inbox-prefix",
        default=os.environ.get("NATS_INBOX_PREFIX"),
        metavar="PREFIX",
        help="where this role may hear replies; default NATS_INBOX_PREFIX",
    )
    group.add_argument(
        "--ensure",
        choices=get_args(Ensure),
        default=os.environ.get("NATS_ENSURE", "verify"),
        help="bind: streams and consumers are there, and this role may not look; default NATS_ENSURE, else verify",
    )


def connection(options: argparse.Namespace) -> Connection:
    """What the options come to.

    Raises:
        OSError: a file that cannot be read.
    """
    user: str | None = options.user
    password: str | None = None
    if user is not None:
        given: Path | None = options.password_file
        password = os.environ.get("NATS_PASSWORD", "") if given is None else given.read_text(encoding="utf-8").strip()
    return {
        "url": options.url,
        "user": user,
        "password": password,
        "creds": options.creds,
        "tls": None if options.ca is None else _vouched_for_by(options.ca),
        "inbox_prefix": options.inbox_prefix,
    }


def keyed_connection(options: argparse.Namespace) -> KeyedConnection:
    """The same for a service that stores, with NATS_ID_SECRET: the same for all processes of its role.

    Raises:
        OSError: a file that cannot be read.
    """
    return {**connection(options), "id_secret": os.environ.get("NATS_ID_SECRET") or None}


def _path(variable: str) -> Path | None:
    found = os.environ.get(variable)
    return Path(found) if found else None


def _vouched_for_by(authority: Path) -> ssl.SSLContext:
    with authority.open("rb"):  # ssl does not name a file that is not there
        return ssl.create_default_context(cafile=authority)
