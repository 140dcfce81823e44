"""As whom the command connects: options for what ``connect`` takes, but never a password on the command line."""

from __future__ import annotations

import argparse
import os
import ssl
from pathlib import Path
from typing import Any


def add_connection_options(parser: argparse.ArgumentParser, *, again: bool = False) -> None:
    """The options, each with a variable for its default; ``again`` after a verb, where they stand for those before."""

    def told(variable: str | None = None) -> str | None:
        if again:
            return argparse.SUPPRESS
        return None if variable is None else os.environ.get(variable)

    parser.add_argument("--url", default=told(), help="default: NATS_URL, else nats://127.0.0.1:4222")
    parser.add_argument("--user", default=told("NATS_USER"), help="with NATS_PASSWORD; default: NATS_USER")
    parser.add_argument("--password-file", type=Path, default=told(), metavar="FILE", help="instead of NATS_PASSWORD")
    parser.add_argument("--creds", default=told("NATS_CREDS"), metavar="FILE", help="default: NATS_CREDS")
    parser.add_argument(
        "--ca", default=told("NATS_CA"), metavar="FILE", help="TLS, by this authority; default: NATS_CA"
    )
    first = argparse.SUPPRESS if again else False
    told_first = "for servers that shake hands before their first word"
    parser.add_argument("--tls-first", action="store_true", default=first, help=told_first)
    parser.add_argument(
        "--inbox-prefix", default=told("NATS_INBOX_PREFIX"), metavar="PREFIX", help="default: NATS_INBOX_PREFIX"
    )


def connection(options: argparse.Namespace) -> dict[str, Any]:
    """What the options come to, as arguments of ``connect``.

    Raises:
        OSError: a file that cannot be read.
    """
    password = None
    if options.user is not None:
        given: Path | None = options.password_file
        password = os.environ.get("NATS_PASSWORD", "") if given is None else given.read_text(encoding="utf-8").strip()
    return {
        "url": options.url,
        "user": options.user,
        "password": password,
        "creds": options.creds,
        "tls": None if options.ca is None else _vouched_for_by(Path(options.ca)),
        "tls_first": options.tls_first,
        "inbox_prefix": options.inbox_prefix,
    }


def _vouched_for_by(authority: Path) -> ssl.SSLContext:
    with authority.open("rb"):  # ssl does not name a file that is not there
        return ssl.create_default_context(cafile=authority)
