"""What the server says in -ERR lines, sorted by what it means for us."""

from __future__ import annotations

import re
from ast import literal_eval
from typing import Final, NamedTuple

_QUOTED: Final = r'"(?:[^"\\]|\\.)*"'
_VIOLATION: Final = re.compile(
    rf"permissions violation for (?P<what>publish with reply of|publish to|subscription to) (?P<subject>{_QUOTED})"
    rf"(?: using queue (?P<queue>{_QUOTED}))?",
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
    queue: str | None


def violation(text: str) -> Violation | None:
    """What is forbidden, when the text says so."""
    found = _VIOLATION.search(text)
    if found is None:
        return None
    verb = "subscribe" if found["what"].lower().startswith("subscription") else "publish"
    return Violation(verb, _unquoted(found["subject"]), _unquoted(found["queue"]) if found["queue"] else None)


def _unquoted(text: str) -> str:
    """The server quotes as Go does, which for what can be in a subject is as Python does."""
    try:
        return str(literal_eval(text))
    except (SyntaxError, ValueError):
        return text[1:-1]


def is_refusal(text: str) -> bool:
    """Whether the text refuses the credentials, now or from now on."""
    lowered = text.lower()
    return any(each in lowered for each in _REFUSALS)


def about_subscriptions(text: str) -> bool:
    """Whether a subscription asked for was not made."""
    lowered = text.lower()
    return "subscription" in lowered or "invalid subject" in lowered
