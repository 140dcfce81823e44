"""The subject grammar: what may be published to, what may be subscribed to, and what matches what.

A subject is dot-separated tokens (``battle.42.state``). In a *pattern* ``*`` stands for one token and ``>``, as the
last token, for one or more. Rules follow the NATS server, made stricter where it accepts what can only be a mistake:
empty tokens (silently lost there) and anything not printable are refused here.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from broker.contracts.errors import InvalidSubject

MAX_SUBJECT_BYTES: Final = 512
"""A longer one can overflow the server's 4 KiB control line, together with reply and sizes, and cost the connection."""

_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_NAME_FORBIDDEN: Final = frozenset(".*>/\\ \t\r\n")
_MAX_NAME: Final = 255
_CACHED: Final = 8192


class Subject:
    """Checks and matching for subjects, as static functions."""

    @staticmethod
    def token(value: object) -> str:
        """A user-supplied id as one safe token: 1 to 64 of ``A-Z a-z 0-9 _ -``.

        Use it wherever a player, room or battle id becomes part of a subject; a dot or wildcard smuggled in by a
        client would otherwise reach other rooms.

        Raises:
            InvalidSubject: anything else.
        """
        text = value if isinstance(value, str) else str(value) if isinstance(value, int) else ""
        if not _TOKEN.match(text):
            raise InvalidSubject(f"{value!r} is not a subject token: use 1 to 64 of A-Z a-z 0-9 _ -")
        return text

    @staticmethod
    def validate(subject: str) -> str:
        """The subject itself when it can be published to.

        Raises:
            InvalidSubject: wildcards, blanks, control characters, empty tokens, or over 512 bytes.
        """
        return publish_subject(subject)

    @staticmethod
    def validate_pattern(pattern: str) -> str:
        """The pattern itself when it can be subscribed to.

        Raises:
            InvalidSubject: a misplaced wildcard, or anything ``validate`` refuses.
        """
        return subscribe_pattern(pattern)

    @staticmethod
    def match(pattern: str, subject: str) -> bool:
        """Whether the pattern covers the subject, token by token."""
        return matches(pattern, subject)


def _tokens(subject: str, what: str) -> list[str]:
    if not isinstance(subject, str) or not subject:
        raise InvalidSubject(f"{what} must be a non-empty string, not {subject!r}")
    if len(subject.encode("utf-8", "surrogatepass")) > MAX_SUBJECT_BYTES:
        raise InvalidSubject(f"{what} is over {MAX_SUBJECT_BYTES} bytes: {subject[:60]!r}...", subject=subject)
    if " " in subject or not subject.isprintable():
        raise InvalidSubject(f"{what} {subject!r} holds a blank or a control character", subject=subject)
    tokens = subject.split(".")
    if "" in tokens:
        raise InvalidSubject(f"{what} {subject!r} has an empty token", subject=subject)
    return tokens


def publish_subject(subject: str) -> str:
    """``Subject.validate``, remembered: the hot path asks for the same few subjects again and again."""
    try:
        return _publish_subject(subject)
    except TypeError:  # not hashable, so no text either
        raise InvalidSubject(f"subject must be a non-empty string, not {subject!r}") from None


def is_token(text: str) -> bool:
    """Whether it can stand between two dots of a subject that is published to."""
    try:
        return "." not in publish_subject(text)
    except InvalidSubject:
        return False


def subscribe_pattern(pattern: str) -> str:
    """``Subject.validate_pattern``, remembered."""
    try:
        return _subscribe_pattern(pattern)
    except TypeError:
        raise InvalidSubject(f"pattern must be a non-empty string, not {pattern!r}") from None


@lru_cache(_CACHED)
def _publish_subject(subject: str) -> str:
    tokens = _tokens(subject, "subject")
    if "*" in tokens or ">" in tokens:
        raise InvalidSubject(f"cannot publish to {subject!r}: wildcards are for subscribing", subject=subject)
    return subject


@lru_cache(_CACHED)
def _subscribe_pattern(pattern: str) -> str:
    tokens = _tokens(pattern, "pattern")
    if ">" in tokens[:-1]:
        raise InvalidSubject(f"in {pattern!r} the wildcard > must be the last token", subject=pattern)
    return pattern


def matches(pattern: str, subject: str) -> bool:
    """Whether ``pattern`` covers ``subject``; both are taken to be valid."""
    wanted, given = pattern.split("."), subject.split(".")
    for index, want in enumerate(wanted):
        if want == ">":
            return len(given) > index
        if index >= len(given) or want not in {"*", given[index]}:
            return False
    return len(wanted) == len(given)


def overlap(left: str, right: str) -> bool:
    """Whether some subject is covered by both patterns."""
    a, b = left.split("."), right.split(".")
    for x, y in zip(a, b, strict=False):
        if ">" in {x, y}:
            return True
        if x != y and "*" not in {x, y}:
            return False
    return len(a) == len(b)


def covers(outer: str, inner: str) -> bool:
    """Whether every subject that ``inner`` covers is covered by ``outer``."""
    a, b = outer.split("."), inner.split(".")
    for index, want in enumerate(a):
        if want == ">":
            return len(b) > index
        if index >= len(b) or b[index] == ">" or want not in {"*", b[index]}:
            return False
    return len(a) == len(b)


def resource_name(name: str, what: str) -> str:
    """A stream, consumer or queue name: one token's worth of printable characters, at most 255 bytes.

    Raises:
        InvalidSubject: dots, wildcards, slashes, blanks or control characters (they become part of API subjects).
    """
    if not isinstance(name, str) or not name or len(name.encode("utf-8", "surrogatepass")) > _MAX_NAME:
        raise InvalidSubject(f"{what} name must be 1 to {_MAX_NAME} bytes, not {name!r}")
    if not name.isprintable() or _NAME_FORBIDDEN.intersection(name):
        raise InvalidSubject(f"{what} name {name!r} holds a dot, wildcard, slash, blank or control character")
    return name
