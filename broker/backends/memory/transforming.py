"""Rewriting subjects as a server does: wildcards, partitions, and nothing that needs more. No I/O."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from broker.contracts.errors import ApiError, Unsupported
from broker.contracts.subjects import matches

if TYPE_CHECKING:
    from collections.abc import Callable

_TOKEN: Final = re.compile(r"\{\{\s*(?P<name>\w+)\s*\((?P<arguments>[^)]*)\)\s*\}\}|\$(?P<number>\d+)")
_REMEMBERED: Final = 4096
_OFFSET: Final = 0x811C9DC5
_PRIME: Final = 0x01000193
_WORD: Final = 0xFFFFFFFF


def fnv1a(data: bytes) -> int:
    """The 32-bit hash the server's ``partition`` takes a remainder of."""
    value = _OFFSET
    for byte in data:
        value = ((value ^ byte) * _PRIME) & _WORD
    return value


def transform(source: str, destination: str, *, err_code: int) -> Callable[[str], str | None]:
    """What becomes of a subject; ``None`` where the source does not cover it.

    Raises:
        ApiError: the destination asks for a wildcard that the source does not have.
        Unsupported: a function that only a server knows.
    """
    wild = [index for index, word in enumerate(source.split(".")) if word == "*"]
    parts = [_part(word, len(wild), err_code) for word in destination.split(".")]

    @lru_cache(_REMEMBERED)
    def change(subject: str) -> str | None:
        if not matches(source, subject):
            return None
        tokens = subject.split(".")
        caught = [tokens[index] for index in wild]
        rest = tokens[len(source.split(".")) - 1 :] if source.endswith(">") else []
        return ".".join(part(caught, rest) for part in parts)

    return change


def _part(word: str, wildcards: int, err_code: int) -> Callable[[list[str], list[str]], str]:
    if word == ">":
        return lambda _caught, rest: ".".join(rest)
    found = _TOKEN.fullmatch(word)
    if found is None:
        return lambda _caught, _rest: word
    name = (found["name"] or "wildcard").lower()
    arguments = [each.strip() for each in (found["arguments"] or found["number"] or "").split(",")]
    if name not in {"wildcard", "partition"} or not all(each.isdigit() for each in arguments):
        raise Unsupported(f"subject_transform: {word} is known to real servers only")
    numbers = [int(each) for each in arguments]
    buckets, chosen = (0, numbers) if name == "wildcard" else (numbers[0], numbers[1:])
    if any(not 1 <= number <= wildcards for number in chosen):
        raise ApiError(f"stream transform: wildcard index out of range in {word}", code=400, err_code=err_code)
    if name == "wildcard":
        return lambda caught, _rest: caught[chosen[0] - 1]
    keys = chosen or list(range(1, wildcards + 1))
    return lambda caught, _rest: str(fnv1a("".join(caught[each - 1] for each in keys).encode()) % buckets)
