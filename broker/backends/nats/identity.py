"""Who we are: what CONNECT says about it. Nothing in here shows a secret, in ``repr`` or in an exception."""

from __future__ import annotations

import asyncio
import base64
import re
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from broker.contracts.errors import ConnectError, Unauthorized

if TYPE_CHECKING:
    from broker.backends.nats.addresses import Address

_BLOCK: Final = re.compile(rb"-{3,}\s*BEGIN ([A-Z ]+?)\s*-{3,}\s+([A-Za-z0-9._=-]+?)\s+-{3,}\s*END")
_SEED: Final = re.compile(rb"S[A-Z2-7]{57}")
_ADVICE: Final = (
    "give connect() user= and password=, token= or creds=, or put them into the URL or NATS_URL (user:password@host); "
    "commands and services also read NATS_USER with NATS_PASSWORD, and NATS_CREDS"
)
_LARGEST: Final = 1 << 20
"""Bytes of a credentials file; a larger one is something else."""


class _Key(NamedTuple):
    """A seed, with the JWT of the user it belongs to when there is one."""

    seed: bytes
    jwt: str | None

    def __repr__(self) -> str:
        return "_Key(...)"


class Identity:
    """As whom to connect: key (with or without a JWT), user and password, or token, the first of these that is there.

    A credentials file is read anew for every connection, so that it can be renewed while the program runs.
    """

    def __init__(self, address: Address, creds: str | None) -> None:
        self._address = address
        self._creds = creds

    @property
    def renewable(self) -> bool:
        """Whether the next connection may be made as somebody the server still knows."""
        return self._creds is not None

    def refused(self, told: str) -> Unauthorized:
        """The server let us in as nobody, or not as who we say we are; ``told``: in its words."""
        address = self._address
        if self._creds is None and address.user is None and address.token is None:
            told = f"{address} wants credentials ({told}), and no user, token or creds= was given"
            return Unauthorized(f"{told}: {_ADVICE}")
        return Unauthorized(f"{address} refused the credentials: {told}")

    async def fields(self, nonce: str) -> dict[str, str]:
        """What CONNECT says of us to a server that wants this signed; empty when it asks for no key.

        Raises:
            ConnectError: the credentials file cannot be used.
        """
        if self._creds is not None:
            return await asyncio.to_thread(_signed, self._creds, nonce)
        address = self._address
        if address.user is not None:
            return {"user": address.user, "pass": address.password or ""}
        return {} if address.token is None else {"auth_token": address.token}


def _signed(creds: str, nonce: str) -> dict[str, str]:
    """The fields of a key. Without a nonce the server asks for none."""
    nkeys = _nkeys()
    key = _read(Path(creds))
    if not nonce:
        return {}
    pair: Any = None
    try:
        pair = nkeys.from_seed(bytearray(key.seed))
        public = pair.public_key.decode()
        signature = base64.urlsafe_b64encode(pair.sign(nonce.encode())).rstrip(b"=").decode()
    except Exception:  # noqa: BLE001 - whatever is wrong with the seed, an exception that shows it stays here
        raise ConnectError(f"credentials file {creds}: its seed is not a key") from None
    finally:
        if pair is not None:
            pair.wipe()
    who = {"nkey": public} if key.jwt is None else {"jwt": key.jwt}
    return {**who, "sig": signature}


def _nkeys() -> Any:
    try:
        return import_module("nkeys")
    except ImportError as exc:
        raise ConnectError('creds= needs nkeys: pip install "gamebroker[nkeys]"') from exc


def _read(path: Path) -> _Key:
    """The content of a credentials file, or of a file that holds a seed alone.

    Raises:
        ConnectError: there is none, or it is something else.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST)
    except OSError as exc:
        raise ConnectError(f"credentials file {path}: {exc.strerror}") from exc
    blocks = {found[1]: found[2] for found in _BLOCK.finditer(text)}
    jwt, seed = blocks.get(b"NATS USER JWT"), blocks.get(b"USER NKEY SEED")
    if not blocks and _SEED.fullmatch(text.strip()):
        seed = text.strip()
    if seed is None:
        raise ConnectError(f"credentials file {path}: no seed in it")
    return _Key(seed, None if jwt is None else jwt.decode())
