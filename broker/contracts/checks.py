"""Refusing a value that an option cannot have, before anything is sent: each refusal names option and allowed range."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, cast

from broker.contracts.errors import InvalidOption

MOST_WHOLE: Final = 2**62
MOST_SECONDS: Final = 946_080_000.0
MAX_DESCRIPTION: Final = 4096
"""Bytes of a description at most, as on the server."""
RESERVED: Final = ("_nats", "gamebroker.")
"""How names in metadata begin that are the server's and ours."""
MAX_METADATA: Final = 128 << 10
"""Bytes of all names and values of metadata together at most, as on the server."""


def one_of(option: str, value: object, allowed: Sequence[str] | frozenset[str]) -> None:
    """Refuse a word that is not one of the allowed ones."""
    if not isinstance(value, str) or value not in allowed:
        raise InvalidOption(f"{option}={value!r}: must be one of {', '.join(sorted(allowed))}", option=option)


def in_range(option: str, value: Any, low: float, high: float | None = None, *, whole: bool = False) -> None:
    """Refuse a number outside ``low`` to ``high``, both allowed, and anything that is not a number.

    Without ``high``: what a server can still count (2^62, or 30 years of seconds).
    """
    kinds = (int,) if whole else (int, float)
    most = high if high is not None else MOST_WHOLE if whole else MOST_SECONDS
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= most:
        number = "a whole number" if whole else "a number"
        bounded = high is not None or (isinstance(value, kinds) and value > most)
        bound = f"from {_written(low)} to {_written(most)}" if bounded else f"of at least {_written(low)}"
        raise InvalidOption(f"{option}={value!r}: must be {number} {bound}", option=option)


def _written(number: float) -> str:
    """A bound as people write it: whole numbers whole, however large."""
    return f"{int(number):,}" if float(number).is_integer() else f"{number:g}"


def check_kind(option: str, value: object, kind: type | tuple[type, ...], must: str, *, shown: bool) -> None:
    """Refuse a value of another type; what may be a secret is not shown."""
    if not isinstance(value, kind):
        told = f"{option}={value!r}" if shown else option
        raise InvalidOption(f"{told}: must be {must}", option=option)


def check_text(option: str, value: object) -> None:
    """Refuse what is no text that can be sent."""
    if not isinstance(value, str) or not _encodable(value):
        raise InvalidOption(f"{option}={value!r}: must be text that UTF-8 can write", option=option)


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_moment(option: str, value: object, must: str = "a datetime", *, since: int = 1) -> None:
    """Refuse what is no time with a zone, or is not within the years ``since`` to 9999 (UTC).

    ``must`` says what else the option may be.
    """
    check_kind(option, value, datetime, must, shown=True)
    moment = cast("datetime", value)
    if moment.tzinfo is None or moment.utcoffset() is None:
        raise InvalidOption(f"{option}={value!r}: the time needs a time zone", option=option)
    try:
        year = moment.astimezone(UTC).year
    except OverflowError:
        year = 0
    if year < since:
        raise InvalidOption(f"{option}={value!r}: must be from the year {since} to 9999 (UTC)", option=option)


def check_flags(owner: object, options: Sequence[str]) -> None:
    """Refuse anything but ``True`` and ``False`` in these attributes."""
    for option in options:
        check_kind(option, getattr(owner, option), bool, "True or False", shown=True)


def check_words(description: object, metadata: object) -> None:
    """Refuse a description or metadata that the server would not keep.

    Raises:
        InvalidOption: not text, longer than it keeps, or a reserved name.
    """
    check_text("description", description)
    size = len(str(description).encode())
    if size > MAX_DESCRIPTION:
        raise InvalidOption(
            f"description: is {size:,} bytes; must be from 0 to {MAX_DESCRIPTION:,}", option="description"
        )
    if not isinstance(metadata, Mapping) or not all(
        isinstance(each, str) for both in metadata.items() for each in both
    ):
        raise InvalidOption(f"metadata={metadata!r}: must map names to values, both text", option="metadata")
    for both in metadata.items():
        for each in both:
            check_text("metadata", each)
    size = sum(len(each.encode()) for both in metadata.items() for each in both)
    if size > MAX_METADATA:
        raise InvalidOption(f"metadata: is {size:,} bytes; must be from 0 to {MAX_METADATA:,}", option="metadata")
    for name in metadata:
        if name.startswith(RESERVED):
            raise InvalidOption(f"metadata: {name!r} is not yours: it begins like a reserved name", option="metadata")
