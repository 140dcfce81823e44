"""Message headers: a case-preserving multi-value mapping, checked once where the caller hands them in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from broker.contracts.errors import InvalidHeader

HeadersLike = Mapping[str, str | Sequence[str]]
"""What callers pass as ``headers=``: a name to one value or to several."""

RESERVED: Final = ("nats-", "gamebroker-")
"""Prefixes (any case) that carry the protocol; callers can neither set them nor see them in ``headers``."""

KEY: Final = "Gamebroker-Key"
"""The caller's own idempotency key, as given."""
STORED_AS: Final = "Gamebroker-Stored-As"
"""On a copy of a message without a key (put back from the dead letters, waiting): what it was known by at first."""
ORDERING_KEY: Final = "Gamebroker-Ordering-Key"
"""The key whose messages keep their order."""
NUMBER: Final = "Gamebroker-Number"
"""On an event at QoS 0: who sent it and its number there, ``<16 hex digits> <from 1>``."""
MESSAGE_ID: Final = "Nats-Msg-Id"
"""On a stored message, by every backend: the id it was stored under."""
MARKER: Final = "Nats-Marker-Reason"
"""On a stored message, by every backend: the server itself put it in place of a subject's last one, and why."""
LEFT_OUT: Final = "Nats-Msg-Size"
"""On a message without its body, by every backend: how many bytes were left out."""
ERROR: Final = "Gamebroker-Error"
"""On a reply: the class name of what the responder raised."""
SERVICE_ERROR: Final = "Nats-Service-Error"
"""On a reply of any client's service: what went wrong, in words."""
SERVICE_ERROR_CODE: Final = "Nats-Service-Error-Code"
"""On a reply of any client's service: the number of what went wrong; with it, a reply is an error reply."""

_NAME: Final = re.compile(r"[!-9;-~]+\Z")
_BAD_VALUE: Final = re.compile(r"[\r\n\x00]")


class Headers(Mapping[str, str]):
    """Names and values in the order sent; a name may stand several times.

    ``headers["name"]`` is the first value of that name; a name is found in any case. ``get_all`` gives every value.
    """

    __slots__ = ("_pairs", "status", "status_text")

    def __init__(self, pairs: Iterable[tuple[str, str]] = (), *, status: int = 0, status_text: str = "") -> None:
        self._pairs: tuple[tuple[str, str], ...] = tuple(pairs)
        self.status = status
        self.status_text = status_text

    @classmethod
    def checked(cls, given: HeadersLike | None) -> Headers | None:
        """The caller's headers, checked; ``None`` when there are none.

        Blanks around a value are not kept (other clients trim them too).

        Raises:
            InvalidHeader: a name that is empty, reserved or not visible ASCII without a colon; a value that is not
                text or holds CR, LF or NUL.
        """
        if not given:
            return None
        pairs = given.pairs if isinstance(given, Headers) else _pairs_of(given)
        for name, value in pairs:
            _check(name, value)
        return cls((name, value.strip(" \t")) for name, value in pairs)

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Every (name, value) in the order sent."""
        return self._pairs

    def get_all(self, name: str) -> list[str]:
        """Every value of that name, in the order sent; empty when there is none."""
        wanted = name.lower()
        return [value for key, value in self._pairs if key.lower() == wanted]

    def adding(self, *pairs: tuple[str, str]) -> Headers:
        """A copy with more pairs at the end."""
        return Headers((*self._pairs, *pairs), status=self.status, status_text=self.status_text)

    def public(self) -> Headers:
        """Without the reserved names: what the sender's application put in."""
        return Headers(pair for pair in self._pairs if not is_reserved(pair[0]))

    def __getitem__(self, name: str) -> str:
        wanted = name.lower()
        for key, value in self._pairs:
            if key == name or key.lower() == wanted:
                return value
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(name for name, _ in self._pairs))

    def __bool__(self) -> bool:
        return bool(self._pairs)

    def __len__(self) -> int:
        return len(dict.fromkeys(name for name, _ in self._pairs))

    def __repr__(self) -> str:
        return f"Headers({list(self._pairs)!r})"


NO_HEADERS: Final = Headers()


def error_kind(headers: Headers | None) -> str | None:
    """What an error reply says happened: the class name of what a responder of ours raised, else a service's number.

    ``None`` when it is no error reply.
    """
    if headers is None:
        return None
    kind = headers.get(ERROR)
    return kind if kind is not None else headers.get(SERVICE_ERROR_CODE) or None


def is_reserved(name: str) -> bool:
    """Whether the name belongs to the protocol."""
    return name.lower().startswith(RESERVED)


def _pairs_of(given: HeadersLike) -> list[tuple[str, str]]:
    if not isinstance(given, Mapping):
        raise InvalidHeader(f"headers must be a mapping of names to values, not {type(given).__name__}")
    pairs: list[tuple[str, str]] = []
    for name, value in given.items():
        if isinstance(value, str):
            pairs.append((name, value))
        elif isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
            pairs.extend((name, each) for each in value)
        else:
            raise InvalidHeader(f"header {name!r} must be text or a sequence of text, not {type(value).__name__}")
    return pairs


def _check(name: str, value: str) -> None:
    if not isinstance(name, str) or not _NAME.match(name):
        raise InvalidHeader(f"header name {name!r} must be visible ASCII without blanks or colons")
    if is_reserved(name):
        raise InvalidHeader(f"header {name!r}: names starting with Nats- or Gamebroker- are reserved")
    if not isinstance(value, str):
        raise InvalidHeader(f"header {name!r} must be text, not {type(value).__name__}")
    if _BAD_VALUE.search(value):
        raise InvalidHeader(f"header {name!r} holds a line break or NUL")
    try:
        value.encode()
    except UnicodeEncodeError as exc:
        raise InvalidHeader(f"header {name!r} is not encodable as UTF-8") from exc
