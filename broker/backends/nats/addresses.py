"""Server addresses: taken apart once, so that no URL with credentials in it is passed on, logged or shown."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, unquote, urlsplit

from broker.contracts.errors import InvalidOption
from broker.contracts.numerals import number_of

if TYPE_CHECKING:
    from broker.contracts.options import ConnectOptions

EMBEDDED: Final = "embedded://"
_PORT: Final = 4222
_LAST_PORT: Final = 65_535
_WEB: Final = frozenset({"ws", "wss"})
_PLAIN: Final = frozenset({"nats", "tls"})
_NO_SLASHES: Final = re.compile(r"(?:nats|tls|wss?):/?(?!/)(?!\d+\Z)", re.IGNORECASE)
"""A scheme without its slashes; a host of that name with a port is none."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to connect and as whom.

    Attributes:
        urls: the servers, without credentials.
        tls: whether a connection without TLS must be refused.
    """

    urls: tuple[str, ...]
    tls: bool
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)

    @property
    def web(self) -> bool:
        """Whether the servers are reached through websockets."""
        return urlsplit(self.urls[0]).scheme in _WEB

    def __str__(self) -> str:
        return ", ".join(self.urls)


def parse(options: ConnectOptions) -> Address:
    """The servers of ``options.url``; credentials inside a URL count when no others are given.

    Raises:
        InvalidOption: a URL without a host or with a path, or schemes mixed.
    """
    urls: list[str] = []
    user, password, token = options.user, options.password, options.token
    given = bool(user or password or token or options.creds)
    schemes: set[str] = set()
    for part in (each.strip() for each in options.url.split(",")):
        if _NO_SLASHES.match(part):
            raise InvalidOption("url: a scheme is followed by //, as in nats://host", option="url")
        split = _split(part if "://" in part else f"nats://{part}")
        schemes.add(split.scheme)
        if split.scheme in _PLAIN:
            _check_bare(split, shown="@" not in options.url)
        elif split.scheme not in _WEB:
            raise InvalidOption(f"url: a list of NATS servers cannot hold {split.scheme}://", option="url")
        urls.append(_bare(split.scheme, split.hostname, _port(split.netloc), split.path))
        if not given and split.username is not None:
            given = True
            if split.password is None:
                token = unquote(split.username)
            else:
                user, password = unquote(split.username), unquote(split.password)
    if not (schemes <= _WEB or schemes <= _PLAIN):
        raise InvalidOption(f"url: cannot mix {', '.join(sorted(schemes))} servers", option="url")
    if user is not None and password is None:
        password = ""
    return Address(tuple(urls), bool(schemes & {"tls", "wss"}) or options.tls is not None, user, password, token)


def _split(url: str) -> SplitResult:
    """The URL taken apart; nothing of it is quoted when that fails."""
    try:
        split = urlsplit(url)
    except ValueError:
        raise InvalidOption("url: malformed host", option="url") from None
    if "@" in url and "@" not in split.netloc:
        raise InvalidOption("url: write / ? and # in a password as %2F %3F and %23", option="url")
    return split


def _check_bare(split: SplitResult, *, shown: bool) -> None:
    """Refuse what nobody would read. Shown only where no piece of a password can be in it."""
    rest = split._replace(scheme="", netloc="").geturl()
    if rest not in {"", "/"}:
        told = repr(rest) if shown else "what stands"
        raise InvalidOption(f"url: {told} after the host means nothing; options are arguments of connect", option="url")


def _port(netloc: str) -> int | None:
    """The port, read by hand: the standard library quotes the whole authority, password included, when it is wrong."""
    text = netloc.rpartition("@")[2].rpartition("]")[2].rpartition(":")[2] if ":" in netloc.rpartition("@")[2] else ""
    if not text:
        return None
    port = number_of(text)
    if port is None or not 0 < port <= _LAST_PORT:
        # Not quoted: after a colon there may as well be a password with a character that should have been encoded.
        raise InvalidOption(f"url: the port must be a number from 1 to {_LAST_PORT}", option="url")
    return port


def _bare(scheme: str, host: str | None, port: int | None, path: str) -> str:
    if not host:
        raise InvalidOption("url: a server needs a host", option="url")
    host = f"[{host}]" if ":" in host else host
    if scheme in _WEB:
        return f"{scheme}://{host}{f':{port}' if port else ''}{path}"
    return f"{scheme}://{host}:{port or _PORT}"
