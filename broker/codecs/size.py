"""How large a body may be that is decoded at all."""

from __future__ import annotations

from broker.contracts.checks import in_range
from broker.contracts.errors import DecodeError


def checked_size(limit: int | None) -> int | None:
    """The limit itself, in bytes.

    Raises:
        InvalidOption: below 1.
    """
    if limit is not None:
        in_range("max_bytes", limit, 1, whole=True)
    return limit


def check_size(data: bytes, limit: int) -> None:
    """Raises ``DecodeError`` when the body is larger."""
    if len(data) > limit:
        raise DecodeError(f"a body of {len(data)} bytes; at most {limit} are decoded")
