"""``StreamOptions``: everything a stream is declared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Self

from broker.contracts.checks import check_flags, check_kind, check_words, in_range, one_of
from broker.contracts.errors import InvalidOption
from broker.contracts.features import (
    ConsumerLimits,
    Placement,
    Republish,
    StreamSource,
    SubjectTransform,
    check_apart,
    items_of,
)
from broker.contracts.lanes import MOST_LANES
from broker.contracts.subjects import overlap, resource_name, subscribe_pattern

_MAX_REPLICAS: Final = 5
_MAX_MSG_SIZE: Final = 2**31 - 1
_FLAGS: Final = (
    *("discard_new_per_subject", "allow_direct", "deny_delete", "deny_purge", "sealed", "schedules", "counters"),
    *("allow_msg_ttl", "allow_rollup", "mirror_direct", "atomic"),
)
_PARTS: Final = (
    ("placement", Placement, "a Placement(...)"),
    ("subject_transform", SubjectTransform, "a SubjectTransform(...)"),
    ("republish", Republish, "a Republish(...)"),
    ("mirror", StreamSource, "a StreamSource(...)"),
    ("consumer_limits", ConsumerLimits, "a ConsumerLimits(...)"),
)


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """A stream: which subjects it stores, how, and for how long.

    Attributes:
        name: of the stream; no dots, wildcards or blanks.
        subjects: the patterns it captures; they must not overlap with another stream's. None for a ``mirror``; may be
            none with ``sources``.
        storage: ``"file"`` outlives the server's process, ``"memory"`` does not. Never changes.
        retention: ``"limits"`` keeps messages until a limit; ``"workqueue"`` until acked; ``"interest"`` until every
            consumer acked. With the last two the server forgets the idempotency keys of acked messages when it
            restarts, so money belongs on ``"limits"``. To or from ``"workqueue"`` it never changes.
        max_msgs: messages kept at most.
        max_bytes: bytes kept at most.
        max_age: seconds a message is kept at most; at least 0.1.
        max_msgs_per_subject: messages kept at most per subject.
        max_msg_size: bytes of one message (headers included) at most.
        duplicate_window: seconds within which a repeated idempotency key is dropped. At most ``max_age``.
        discard: what a full stream does: ``"new"`` refuses (``StreamFull``), ``"old"`` silently drops the oldest,
            read or not.
        replicas: copies in a cluster, 1 to 5; odd numbers make sense.
        description: free text, at most 4 KiB.
        metadata: free names and values, at most 128 KiB; names starting with ``_nats`` or ``gamebroker.``
            are not yours.
        durability: what ``declare`` makes sure of: ``"fsync"``, a message that is stored is on the disk; ``"os"``, it
            outlives the server's process. Files only; the server does not keep the word. ``None``: no matter.
        lanes: how many messages with an ``ordering_key`` can be handled at once, each key in its order, 1 to 1,024; for
            ``consume(ordered=True)``. ``None`` keeps no order between workers. Only the number can be changed. Not with
            ``retention="interest"``, nor with what stores or rewrites subjects otherwise (``atomic``, ``schedules``,
            ``counters``, ``subject_transform``, ``mirror``, ``sources``).
        discard_new_per_subject: a subject at ``max_msgs_per_subject`` refuses (``StreamFull``) instead of dropping its
            own oldest; needs that limit and ``discard="new"``.
        max_consumers: consumers at most.
        compression: ``"s2"`` compresses what is in files.
        allow_direct: any copy answers reads of single messages, fast, possibly a moment behind the leader.
        mirror_direct: a mirror answers those reads for the stream it mirrors. The server takes it over from a stream
            it knows, whatever is said here. ``None``: for mirrors.
        allow_msg_ttl: ``ttl=`` is honoured. Cannot be switched off again. ``None``: yes, except with ``counters``.
        delete_marker_ttl: seconds, at least 1, that a marker stays where a subject's last message went by ``max_age``;
            watchers learn by it. No message's own ``ttl`` is shorter. ``None``: no markers.
        deny_delete: no message can be deleted by hand. Cannot be taken back.
        deny_purge: nothing can be purged. Cannot be taken back.
        allow_rollup: a message may replace all before it (the header ``Nats-Rollup``). ``None``: only where
            ``schedules`` or ``delete_marker_ttl`` need it.
        sealed: nothing comes in and nothing goes out any more, neither by hand nor by age: by ``update`` only. Cannot
            be taken back.
        placement: which servers of a cluster keep it.
        subject_transform: rewrites subjects before they are stored.
        republish: what is also published once it is stored.
        mirror: the one stream it copies, sequences and all; it can only be taken away.
        sources: streams it takes messages over from.
        persist_mode: ``"async"`` acknowledges before the file system has the message: faster, and a crash of the
            server's process loses acknowledged messages. Files and one replica only, no ``atomic``. Never changes.
        first_seq: the sequence of its first message; ``None`` is 1. Never changes.
        consumer_limits: what its consumers may ask for at most.
        atomic: batches may be stored all or nothing (``enqueue_atomic``). ``None``: yes, except for a mirror, with
            ``lanes`` and with ``persist_mode="async"``.
        schedules: messages may be stored for later (``schedule``); they wait under ``gamebroker.schedule.<name>.*``,
            which the stream captures as well. Needs ``discard="old"``; ``retention="interest"`` would drop what waits,
            since nobody asks for it yet. Cannot be switched off.
        counters: every message adds to a counter (``increment``), and nothing else is stored. Needs
            ``discard="old"``, ``retention="limits"`` and no ``allow_msg_ttl``. Never changes.

    Raises:
        InvalidOption, InvalidSubject: a value out of its range, or two that contradict; ``.option`` names it.
    """

    name: str
    subjects: Sequence[str] = ()
    storage: Literal["file", "memory"] = "file"
    retention: Literal["limits", "workqueue", "interest"] = "limits"
    max_msgs: int | None = None
    max_bytes: int | None = None
    max_age: float | None = None
    max_msgs_per_subject: int | None = None
    max_msg_size: int | None = None
    duplicate_window: float = 120.0
    discard: Literal["new", "old"] = "new"
    replicas: int = 1
    description: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    durability: Literal["fsync", "os"] | None = None
    lanes: int | None = None
    discard_new_per_subject: bool = False
    max_consumers: int | None = None
    compression: Literal["none", "s2"] = "none"
    allow_direct: bool = True
    mirror_direct: bool | None = None
    allow_msg_ttl: bool | None = None
    delete_marker_ttl: float | None = None
    deny_delete: bool = False
    deny_purge: bool = False
    allow_rollup: bool | None = None
    sealed: bool = False
    placement: Placement | None = None
    subject_transform: SubjectTransform | None = None
    republish: Republish | None = None
    mirror: StreamSource | None = None
    sources: Sequence[StreamSource] = ()
    persist_mode: Literal["default", "async"] = "default"
    first_seq: int | None = None
    consumer_limits: ConsumerLimits | None = None
    atomic: bool | None = None
    schedules: bool = False
    counters: bool = False

    def __post_init__(self) -> None:
        resource_name(self.name, "stream")
        check_words(self.description, self.metadata)
        self._check_origins()
        self._check_subjects()
        self._check_words()
        self._check_numbers()
        self._settle_flags()
        _check_contradictions(self)

    def promising_nothing(self) -> Self:
        """The same: whoever creates or updates looks at no server's disk, so that only ``declare`` takes a durability.

        Raises:
            InvalidOption: there is one.
        """
        if self.durability is not None:
            told = f"durability={self.durability!r}: is looked after by declare() only, which asks the server first"
            raise InvalidOption(told, option="durability")
        return self

    def _check_subjects(self) -> None:
        if isinstance(self.subjects, str) or not isinstance(self.subjects, Sequence):
            raise InvalidOption(f"subjects={self.subjects!r}: must be a list of patterns", option="subjects")
        object.__setattr__(self, "subjects", tuple(subscribe_pattern(each) for each in self.subjects))
        if self.mirror is not None and self.subjects:
            raise InvalidOption("mirror: a mirror captures no subjects of its own", option="mirror")
        if not (self.subjects or self.mirror or self.sources):
            raise InvalidOption("subjects: a stream needs at least one pattern", option="subjects")
        check_apart("subjects", self.subjects)

    def _check_origins(self) -> None:
        for option, kind, told in _PARTS:
            if getattr(self, option) is not None:
                check_kind(option, getattr(self, option), kind, told, shown=True)
        object.__setattr__(self, "sources", items_of("sources", self.sources, StreamSource))
        if self.mirror is not None and self.sources:
            raise InvalidOption("mirror= and sources= contradict: give one of them", option="sources")

    def _check_words(self) -> None:
        one_of("storage", self.storage, ("file", "memory"))
        one_of("retention", self.retention, ("limits", "workqueue", "interest"))
        one_of("discard", self.discard, ("new", "old"))
        one_of("compression", self.compression, ("none", "s2"))
        one_of("persist_mode", self.persist_mode, ("default", "async"))

    def _check_numbers(self) -> None:
        in_range("replicas", self.replicas, 1, _MAX_REPLICAS, whole=True)
        for option in ("max_msgs", "max_bytes", "max_msgs_per_subject", "max_consumers", "first_seq"):
            if getattr(self, option) is not None:
                in_range(option, getattr(self, option), 1, whole=True)
        if self.max_msg_size is not None:
            in_range("max_msg_size", self.max_msg_size, 1, _MAX_MSG_SIZE, whole=True)
        if self.max_age is not None:
            in_range("max_age", self.max_age, 0.1)
        if self.lanes is not None:
            in_range("lanes", self.lanes, 1, MOST_LANES, whole=True)
        if self.delete_marker_ttl is not None:
            in_range("delete_marker_ttl", self.delete_marker_ttl, 1)
        in_range("duplicate_window", self.duplicate_window, 0.1)
        if self.max_age is not None and self.duplicate_window > self.max_age:
            raise InvalidOption(
                f"duplicate_window={self.duplicate_window:g} is longer than max_age={self.max_age:g}: "
                "a key cannot be remembered longer than its message",
                option="duplicate_window",
            )

    def _settle_flags(self) -> None:
        """Where ``None`` means what fits the rest, it becomes that; a sealed stream denies what it cannot do."""
        fits = {
            "mirror_direct": self.mirror is not None and self.mirror.external is None,
            "allow_msg_ttl": not self.counters,
            "allow_rollup": self.schedules or self.delete_marker_ttl is not None,
            "atomic": self.mirror is None and self.lanes is None and self.persist_mode != "async",
        }
        for option, value in fits.items():
            if getattr(self, option) is None:
                object.__setattr__(self, option, bool(value))
        check_flags(self, _FLAGS)
        if self.first_seq == 1:
            object.__setattr__(self, "first_seq", None)
        if self.sealed:
            for option in ("deny_delete", "deny_purge"):
                object.__setattr__(self, option, True)


def clash(options: StreamOptions, other: StreamOptions) -> str:
    """What a server refuses when both capture some subject, and which; empty when they do not."""
    for ours in options.subjects:
        for theirs in other.subjects:
            if overlap(ours, theirs):
                return f"subjects overlap with an existing stream: {ours!r} with {theirs!r} of {other.name!r}"
    return ""


def _check_contradictions(options: StreamOptions) -> None:
    """Refuse pairs that the server refuses, naming both."""
    full, per_subject = options.discard, options.max_msgs_per_subject
    marked = options.delete_marker_ttl is not None
    contradictions = (
        ("discard_new_per_subject", full != "new", 'discard="new"'),
        ("discard_new_per_subject", per_subject is None, "max_msgs_per_subject"),
        ("counters", full == "new", 'discard="old"'),
        ("counters", bool(options.allow_msg_ttl), "allow_msg_ttl=False"),
        ("counters", options.schedules, "schedules=False"),
        ("counters", options.retention != "limits", 'retention="limits"'),
        ("counters", options.mirror is not None, "mirror=None"),
        ("schedules", full == "new", 'discard="old"'),
        ("schedules", options.mirror is not None or bool(options.sources), "neither mirror nor sources"),
        ("schedules", options.retention == "interest", 'retention "limits" or "workqueue"'),
        ("schedules", not options.allow_rollup, "allow_rollup=True"),
        ("allow_rollup", options.deny_purge, "deny_purge=False"),
        ("sealed", full != "new", 'discard="new"'),
        ("sealed", options.max_age is not None, "max_age=None"),
        ("atomic", options.mirror is not None, "mirror=None"),
        ("atomic", options.persist_mode == "async", 'persist_mode="default"'),
        ("delete_marker_ttl", marked and not options.allow_msg_ttl, "allow_msg_ttl=True"),
        ("delete_marker_ttl", marked and not options.allow_rollup, "allow_rollup=True"),
        ("delete_marker_ttl", marked and options.mirror is not None, "mirror=None"),
        ("durability", options.storage != "file", 'storage="file"'),
        ("durability", options.persist_mode == "async", 'persist_mode="default"'),
        ("first_seq", options.mirror is not None, "mirror=None"),
        ("lanes", options.retention == "interest", 'retention "limits" or "workqueue"'),
        ("lanes", bool(options.atomic), "atomic=False"),
        ("lanes", options.schedules, "schedules=False"),
        ("lanes", options.counters, "counters=False"),
        ("lanes", options.subject_transform is not None, "subject_transform=None"),
        ("lanes", options.mirror is not None or bool(options.sources), "neither mirror nor sources"),
    )
    if options.durability is not None:
        one_of("durability", options.durability, ("fsync", "os"))
    for option, wrong, needed in contradictions:
        if wrong and getattr(options, option):
            raise InvalidOption(f"{option}={getattr(options, option)!r} needs {needed}", option=option)
    if options.persist_mode == "async" and (options.storage != "file" or options.replicas > 1):
        raise InvalidOption('persist_mode="async" needs storage="file" and replicas=1', option="persist_mode")
    if options.republish is not None and any(overlap(options.republish.destination, each) for each in options.subjects):
        raise InvalidOption(
            f"republish to {options.republish.destination!r} leads back into the stream's own subjects",
            option="republish",
        )
