"""When a message is due: a schedule as data, where it is kept, and cron patterns. No I/O."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple
from zoneinfo import ZoneInfo

from broker.contracts.errors import InvalidOption
from broker.contracts.subjects import overlap

if TYPE_CHECKING:
    from broker.contracts.stream_options import StreamOptions

KEY: Final = "Gamebroker-Schedule"
"""The key of the schedule a message came from."""
_PREFIX: Final = "gamebroker.schedule"
_DIGEST: Final = 16
_YEARS: Final = 5

_Bounds = tuple[str, int, int, tuple[str, ...]]
_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS: Final[tuple[_Bounds, ...]] = (
    ("second", 0, 59, ()),
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of month", 1, 31, ()),
    ("month", 1, 12, _MONTHS),
    ("day of week", 0, 6, _DAYS),
)


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a message is stored under its target. Exactly one of ``at_ns``, ``delay``, ``every`` and ``cron`` is given.

    Attributes:
        target: the subject it is stored under when it is due; in the same stream.
        at_ns: nanoseconds since the epoch; past means at once.
        delay: seconds from when it is sent.
        every: seconds between two, at least 1.
        cron: six fields, seconds first.
        zone: the time zone of ``cron``; UTC when ``None``.
    """

    target: str
    at_ns: int | None = None
    delay: float | None = None
    every: float | None = None
    cron: str | None = None
    zone: str | None = None


class Scheduled(NamedTuple):
    """A message that waits for its time.

    Attributes:
        key: the schedule's own; scheduling with it again replaces, ``cancel`` takes back.
        subject: what it will be stored under.
        stream: where it waits, and where it will be stored.
        sequence: of the waiting entry.
    """

    key: str
    subject: str
    stream: str
    sequence: int


def kept_under(stream: str, key: str) -> str:
    """The subject a schedule waits under: one for each key, so that the same key replaces."""
    return f"{_PREFIX}.{stream}.{hashlib.blake2b(key.encode(), digest_size=_DIGEST).hexdigest()}"


def pattern_of(stream: str) -> str:
    """The pattern a stream with ``schedules`` captures besides its own."""
    return f"{_PREFIX}.{stream}.*"


def captured_by(options: StreamOptions) -> tuple[str, ...]:
    """Every pattern a stream captures: what was declared, and where its schedules wait unless that covers it anyway."""
    own = pattern_of(options.name)
    waits = options.schedules and not any(overlap(own, each) for each in options.subjects)
    return (*options.subjects, own) if waits else tuple(options.subjects)


@lru_cache(256)
def check_cron(pattern: str) -> tuple[frozenset[int], ...]:
    """What each of the six fields allows.

    Raises:
        InvalidOption: not six fields, or one out of its range.
    """
    fields = pattern.split()
    if len(fields) != len(_FIELDS):
        names = ", ".join(name for name, *_ in _FIELDS)
        raise InvalidOption(f"cron={pattern!r}: must have six fields ({names})", option="cron")
    try:
        return tuple(_allowed(field, bounds) for field, bounds in zip(fields, _FIELDS, strict=True))
    except ValueError as exc:
        raise InvalidOption(f"cron={pattern!r}: {exc}", option="cron") from None


def _allowed(field: str, bounds: _Bounds) -> frozenset[int]:
    return frozenset(number for part in field.split(",") for number in _span(part, bounds))


def _span(part: str, bounds: _Bounds) -> range:
    name, low, high, words = bounds
    span, slash, step = part.partition("/")
    first, dash, last = span.partition("-")
    if first in {"*", "?"} and not dash:
        start, end = low, high
    else:
        start = _number(first, name, words, low)
        end = _number(last, name, words, low) if dash else high if slash else start
    width = _number(step, name, (), 0) if slash else 1
    if not low <= start <= end <= high or width < 1:
        raise ValueError(f"{name} {part!r} must be within {low} to {high}")
    return range(start, end + 1, width)


def _number(text: str, name: str, words: tuple[str, ...], low: int) -> int:
    if text.lower() in words:
        return words.index(text.lower()) + low
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"{name} {text!r} is not a number")
    return int(text)


def next_cron(pattern: str, zone: str | None, after_ns: int) -> int | None:
    """The first moment after another that the pattern allows, nanoseconds since the epoch; ``None``: not in 5 years."""
    seconds, minutes, hours, days, months, weekdays = check_cron(pattern)
    fields = pattern.split()
    either = not any(field[0] in "*?" for field in (fields[3], fields[5]))
    local: tzinfo = ZoneInfo(zone) if zone is not None else UTC
    after = after_ns // 1_000_000_000
    today = datetime.fromtimestamp(after, local).date()
    for ahead in range(366 * _YEARS):
        day = today + timedelta(days=ahead)
        if day.month not in months:
            continue
        of_month, of_week = day.day in days, day.isoweekday() % 7 in weekdays
        if not (of_month or of_week) if either else not (of_month and of_week):
            continue
        found = _first_on(day, (hours, minutes, seconds), local, after)
        if found is not None:
            return found * 1_000_000_000
    return None


def _first_on(
    day: date, allowed: tuple[frozenset[int], frozenset[int], frozenset[int]], local: tzinfo, after: int
) -> int | None:
    hours, minutes, seconds = (sorted(each) for each in allowed)
    for hour in hours:
        last = datetime.combine(day, time(hour, 59, 59), tzinfo=local)
        if last.timestamp() <= after:
            continue
        for minute in minutes:
            for second in seconds:
                moment = datetime.combine(day, time(hour, minute, second), tzinfo=local)
                if moment.timestamp() > after:
                    return int(moment.timestamp())
    return None
