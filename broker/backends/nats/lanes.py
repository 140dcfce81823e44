"""Lanes on a NATS server: the subject transform that files messages, and the form in which a subject is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from broker.contracts.lanes import (
    AGAIN,
    KEYED,
    OURS,
    STORED,
    key_token,
    keyed_subject,
    no_key_token,
    place_of,
    stored_patterns,
)
from broker.contracts.numerals import number_of
from broker.contracts.subjects import matches

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.contracts.envelopes import Record
    from broker.contracts.options import StreamOptions

LANES: Final = "gamebroker.lanes"
"""Metadata key that keeps how many lanes each generation of a stream had."""
_ANY: Final = f"{KEYED}*."
_KEPT: Final = 8192


def counts_of(config: dict[str, Any]) -> tuple[int, ...]:
    """How many lanes each generation of a stream had, the newest last; empty for a stream without lanes."""
    told = (config.get("metadata") or {}).get(LANES, "")
    return tuple(count for each in told.split(",") if (count := number_of(each)) is not None)


def lane_config(options: StreamOptions, counts: tuple[int, ...]) -> dict[str, Any]:
    """What makes the server file a stream's messages by lane; nothing for a stream without lanes."""
    if not counts:
        return {}
    filed = f"gamebroker.lane.{len(counts) - 1}.{{{{partition({counts[-1]},1)}}}}.{{{{wildcard(1)}}}}.>"
    return {
        "subjects": [*(_ANY + each for each in options.subjects), f"{AGAIN}{options.name}.>"],
        "subject_transform": {"src": f"{_ANY}>", "dest": filed},
        "metadata": {**options.metadata, LANES: ",".join(map(str, counts))},
    }


def new_counts(options: StreamOptions, config: dict[str, Any]) -> tuple[int, ...]:
    """The generations of a stream with lanes after it was changed to what is asked."""
    counts = counts_of(config)
    if options.lanes is None or options.lanes == counts[-1]:
        return counts
    return (*counts, options.lanes)


def plain_subjects(config: dict[str, Any]) -> tuple[str, ...]:
    """The patterns a stream was declared with."""
    subjects = tuple(config.get("subjects") or ())
    if not counts_of(config):
        return subjects
    return tuple(each[len(_ANY) :] for each in subjects if each.startswith(_ANY))


def may_be_filed(subject: str) -> bool:
    """Whether a stream with lanes may store it elsewhere: not what is the library's own, nor what buckets keep."""
    return not subject.startswith((OURS, "$"))


def in_every_form(patterns: Sequence[str]) -> list[str]:
    """The patterns, and what they are in a stream with lanes."""
    return [*patterns, *(stored_patterns((each,))[0] for each in patterns if may_be_filed(each))]


def shows(asked: Sequence[str], stored: str) -> bool:
    """Whether somebody who asks for these patterns (none: by number) is shown what is stored under that subject.

    Of a stream with lanes only what was sent to a subject they cover, and no group's own copy of it. Whoever asks for a
    subject of the library's own is shown what is there.
    """
    if not stored.startswith(STORED):
        return True
    if not asked:
        return not stored.startswith(AGAIN)
    return any(each.startswith(OURS) or matches(stored_patterns((each,))[0], stored) for each in asked)


def plain_filters(filters: tuple[str, ...]) -> tuple[str, ...]:
    """The patterns a consumer was made with."""
    return tuple(dict.fromkeys(place_of(each).subject for each in filters))


class Routes:
    """Which subjects go to a stream with lanes, and so in keyed form.

    The server captures one of the two forms, never both, so a wrong guess stores nothing: nobody answers, the guess
    turns round, and the next attempt gets there. ``find_stream`` tells as well.
    """

    def __init__(self) -> None:
        self.laned: set[str] = set()
        self._plain: set[str] = set()

    def form(self, record: Record) -> str:
        """The subject to send it on. The first guess is keyed for a record with an ordering key, plain for others."""
        subject = record.subject
        key = record.ordering_key
        if subject.startswith(OURS) or (key is None and subject not in self.laned) or subject in self._plain:
            return subject
        return keyed_subject(no_key_token(record.message_id) if key is None else key_token(key), subject)

    def unanswered(self, subject: str, sent: str) -> None:
        """Nobody took it in the form it was sent in."""
        if not subject.startswith(OURS):
            self.learn(subject, laned=sent == subject)

    def learn(self, subject: str, *, laned: bool | None) -> None:
        """The stream that captures the subject has lanes, or has none; ``None``: there is no such stream."""
        for subjects in (self.laned, self._plain):
            subjects.discard(subject)
            if len(subjects) >= _KEPT:
                subjects.clear()
        if laned is not None:
            (self.laned if laned else self._plain).add(subject)


def keyed_pattern(pattern: str) -> str:
    """What a stream with lanes captures for a pattern it was declared with."""
    return _ANY + pattern
