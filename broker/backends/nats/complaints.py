"""What the server says in -ERR lines, sorted by what it means for us."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_VIOLATION: Final = re.compile(
    r'permissions violation for (?P<what>publish with reply of|publish to|subscription to) "(?P<subject>[^"]*)"',
    re.IGNORECASE,
)
_REFUSALS: Final = (
    "authorization violation",
    "user authentication expired",
    "user authentication revoked",
    "account authentication expired",
)


class Violation(NamedTuple):
    """A verb the server forbids on a subject, in the case it was sent in."""

    verb: str
    subject: str


def violation(text: str) -> Violation | None:
    """What is forbidden, when the text says so."""
    found = _VIOLATION.search(text)
    if found is None:
        return None
    verb = "subscribe" if found["what"].lower().startswith("subscription") else "publish"
    return Violation(verb, found["subject"])


def is_refusal(text: str) -> bool:
    """Whether the text refuses the credentials, now or from now on."""
    lowered = text.lower()
    return any(each in lowered for each in _REFUSALS)


def about_subscriptions(text: str) -> bool:
    """Whether a subscription asked for was not made."""
    lowered = text.lower()
    return "subscription" in lowered or "invalid subject" in lowered
