"""What a stream can do beyond storing: transforms, republishing, mirrors, sources, placement, limits on consumers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeVar

from broker.contracts.checks import check_flags, check_kind, in_range
from broker.contracts.errors import InvalidOption, InvalidSubject
from broker.contracts.subjects import (
    MAX_SUBJECT_BYTES,
    matches,
    overlap,
    publish_subject,
    resource_name,
    subscribe_pattern,
)

T = TypeVar("T")

_WILDCARD: Final = re.compile(r"\{\{\s*wildcard\s*\(\s*(\d+)\s*\)\s*\}\}|\$(\d+)", re.IGNORECASE)
_FUNCTION: Final = re.compile(r"\{\{.*\}\}|\$\d+")


@dataclass(frozen=True, slots=True)
class SubjectTransform:
    """How the server rewrites a subject.

    Attributes:
        source: the pattern that is rewritten; ``">"`` is everything.
        destination: the new subject. ``{{wildcard(1)}}`` stands for what the first ``*`` covers,
            ``{{partition(8,1)}}`` for one of 8 numbers computed from it; the server knows more such functions.

    Raises:
        InvalidSubject: the source is no pattern, or the destination no subject with functions in it.
    """

    source: str
    destination: str

    def __post_init__(self) -> None:
        subscribe_pattern(self.source)
        _check_destination(self.destination)

    def makes(self, subject: str) -> bool:
        """Whether the subject looks like one that was rewritten."""
        return matches(".".join("*" if _FUNCTION.fullmatch(word) else word for word in self._words), subject)

    def origin(self, subject: str) -> str | None:
        """What a subject was before it was rewritten; ``None`` when that cannot be told."""
        tokens, caught = subject.split("."), dict[int, str]()
        for word, token in zip(self._words, tokens, strict=False):
            found = _WILDCARD.fullmatch(word)
            if found is not None and caught.setdefault(int(found[1] or found[2]), token) != token:
                return None
        rest = tokens[len(self._words) - 1 :] if self._words[-1] == ">" else []
        before, wild = list[str](), 0
        for word in self.source.split("."):
            wild += word == "*"
            before += [caught.get(wild, "")] if word == "*" else rest or [""] if word == ">" else [word]
        return None if "" in before else ".".join(before)

    @property
    def _words(self) -> list[str]:
        return self.destination.split(".")


@dataclass(frozen=True, slots=True)
class Republish:
    """What the server also publishes, as core messages, once it is stored; repeats it dropped are not republished.

    Attributes:
        destination: where to, written like a transform's destination; it must not lead back into the stream.
        source: which stored subjects; ``">"`` is everything.
        headers_only: leave the body out; the header ``Nats-Msg-Size`` tells its size.

    Raises:
        InvalidSubject, InvalidOption: as for a transform.
    """

    destination: str
    source: str = ">"
    headers_only: bool = False

    def __post_init__(self) -> None:
        subscribe_pattern(self.source)
        _check_destination(self.destination)
        check_flags(self, ("headers_only",))


@dataclass(frozen=True, slots=True)
class External:
    """Where another account's or domain's streams are reached.

    Attributes:
        api: the prefix of its API, as this account imports it (``$JS.<domain>.API`` for a domain).
        deliver: the prefix of the subjects its messages arrive on; empty when they need none.

    Raises:
        InvalidSubject: one of them is no subject.
    """

    api: str
    deliver: str = ""

    def __post_init__(self) -> None:
        publish_subject(self.api)
        if self.deliver:
            publish_subject(self.deliver)


@dataclass(frozen=True, slots=True)
class StreamSource:
    """A stream whose messages another one takes over: as its ``mirror``, or as one of its ``sources``.

    Attributes:
        name: of the stream that is read.
        filter: only messages of this pattern; not together with ``transforms``.
        start: where in it to begin: its first message (``None``), a sequence, or a time.
        domain: the JetStream domain it is in; stands instead of ``external``.
        external: how to reach another account's stream. A domain is kept as the ``External`` it stands for.
        transforms: rewrite subjects on the way; several patterns select, too, and must not overlap.

    Raises:
        InvalidSubject, InvalidOption: one of them cannot be, or two contradict.
    """

    name: str
    filter: str | None = None
    start: int | datetime | None = None
    domain: str | None = None
    external: External | None = None
    transforms: Sequence[SubjectTransform] = ()

    def __post_init__(self) -> None:
        resource_name(self.name, "stream")
        if self.filter is not None:
            subscribe_pattern(self.filter)
        if isinstance(self.start, datetime):
            if self.start.tzinfo is None:
                raise InvalidOption(f"start={self.start!r}: the time needs a time zone", option="start")
        elif self.start is not None:
            in_range("start", self.start, 1, whole=True)
        self._check_external()
        object.__setattr__(self, "transforms", items_of("transforms", self.transforms, SubjectTransform))
        if self.filter is not None and self.transforms:
            raise InvalidOption("filter= and transforms= contradict: a transform's source filters", option="filter")
        check_apart("transforms", [each.source for each in self.transforms])

    def _check_external(self) -> None:
        if self.external is not None:
            check_kind("external", self.external, External, "an External(...)", shown=True)
        if self.domain is None:
            return
        if self.external is not None:
            raise InvalidOption("domain= and external= contradict: give one of them", option="domain")
        resource_name(self.domain, "domain")
        object.__setattr__(self, "external", External(f"$JS.{self.domain}.API"))
        object.__setattr__(self, "domain", None)


@dataclass(frozen=True, slots=True)
class Placement:
    """Which servers of a cluster keep a stream.

    Attributes:
        cluster: the name of the cluster.
        tags: what each of its servers must be tagged with.

    Raises:
        InvalidOption: nothing is said, or a tag is no text.
    """

    cluster: str | None = None
    tags: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.cluster is not None:
            resource_name(self.cluster, "cluster")
        object.__setattr__(self, "tags", items_of("tags", self.tags, str))
        if not all(self.tags) or (self.cluster is None and not self.tags):
            raise InvalidOption("placement needs cluster= or tags= (none of them empty)", option="placement")


@dataclass(frozen=True, slots=True)
class ConsumerLimits:
    """What consumers of a stream may ask for, and get when they ask for nothing.

    Attributes:
        inactive_threshold: seconds at most after which an unused consumer is removed.
        max_ack_pending: unsettled deliveries at most.

    Raises:
        InvalidOption: out of range, or nothing is said.
    """

    inactive_threshold: float | None = None
    max_ack_pending: int | None = None

    def __post_init__(self) -> None:
        if self.inactive_threshold is not None:
            in_range("inactive_threshold", self.inactive_threshold, 0.1)
        if self.max_ack_pending is not None:
            in_range("max_ack_pending", self.max_ack_pending, 1, 1_000_000, whole=True)
        if self.inactive_threshold is None and self.max_ack_pending is None:
            raise InvalidOption("consumer_limits: say one of its limits", option="consumer_limits")


def items_of(option: str, given: Sequence[T], kind: type[T]) -> tuple[T, ...]:
    """The items as a tuple; refuses what is not a sequence of that kind."""
    if isinstance(given, str) or not isinstance(given, Sequence) or not all(isinstance(each, kind) for each in given):
        raise InvalidOption(f"{option}={given!r}: must be a list of {kind.__name__}", option=option)
    return tuple(given)


def check_apart(option: str, patterns: Sequence[str]) -> None:
    """Refuse patterns of which two cover the same subject."""
    for index, left in enumerate(patterns):
        for right in patterns[index + 1 :]:
            if overlap(left, right):
                raise InvalidOption(f"{option} {left!r} and {right!r} overlap", option=option)


def _check_destination(destination: object) -> None:
    """What can be checked without knowing the server's functions."""
    if not isinstance(destination, str) or not destination or not destination.isprintable():
        raise InvalidSubject(f"destination must be a subject, not {destination!r}")
    if len(destination.encode()) > MAX_SUBJECT_BYTES:
        raise InvalidSubject(f"destination is over {MAX_SUBJECT_BYTES} bytes: {destination[:60]!r}...")
    if destination.startswith(".") or destination.endswith(".") or ".." in destination:
        raise InvalidSubject(f"destination {destination!r} has an empty token", subject=destination)
