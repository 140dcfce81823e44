"""Numbers that come as text, in headers and subjects that anybody may have written."""

from __future__ import annotations

from typing import Final

_DIGITS: Final = 19
"""As many as nanoseconds since the epoch have. Python refuses to read thousands of them."""


def number_of(text: str | None) -> int | None:
    """The number that the ASCII digits say; ``None`` for everything else, and for more digits than any of ours has."""
    if text and len(text) <= _DIGITS and text.isascii() and text.isdigit():
        return int(text)
    return None
