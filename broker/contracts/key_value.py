"""Buckets of keys as streams: names, layout and operations, byte for byte as other NATS clients have them.

A bucket ``sessions`` is the stream ``KV_sessions``; its key ``room.42`` is the subject ``$KV.sessions.room.42``, a
revision is a stream sequence, and a deletion is a message that says so in a header.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Literal

from broker.contracts.checks import in_range
from broker.contracts.errors import InvalidKey, InvalidOption
from broker.contracts.headers import MARKER
from broker.contracts.stream_options import StreamOptions
from broker.contracts.subjects import MAX_SUBJECT_BYTES, covers, overlap

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from broker.contracts.headers import Headers

STREAM_PREFIX: Final = "KV_"
OPERATION: Final = "KV-Operation"
"""The header that says that a message is no value."""
MAX_HISTORY: Final = 64
_BUCKET: Final = re.compile(r"[A-Za-z0-9_-]{1,250}\Z")
_KEY: Final = re.compile(r"[-/_=.A-Za-z0-9]+\Z")
_FILTER: Final = re.compile(r"[-/_=.*>A-Za-z0-9]+\Z")
_BESIDE: Final = 1024
"""Bytes that a bucket has room for beside a value: headers, of which the wire id holds the key."""
_MOST_VALUE: Final = 2**31 - 1 - _BESIDE
_DUPLICATE_WINDOW: Final = 120.0


class Operation(StrEnum):
    """What a revision did to its key."""

    PUT = "put"
    """It has a value."""
    DELETE = "delete"
    """It was deleted; earlier revisions are kept."""
    PURGE = "purge"
    """It was deleted together with its earlier revisions."""
    EXPIRED = "expired"
    """Its time to live was over; the server itself says so."""


_WORDS: Final = {"DEL": Operation.DELETE, "PURGE": Operation.PURGE}
_REASONS: Final = {"MaxAge": Operation.EXPIRED, "Remove": Operation.DELETE, "Purge": Operation.PURGE}


def operation_of(headers: Headers | None) -> Operation:
    """What a stored message did to its key."""
    if not headers:
        return Operation.PUT
    word = headers.get(OPERATION)
    if word is not None:
        return _WORDS.get(word, Operation.PUT)
    reason = headers.get(MARKER)
    return Operation.PUT if reason is None else _REASONS.get(reason, Operation.DELETE)


@dataclass(frozen=True, slots=True)
class BucketOptions:
    """A bucket: how long it keeps what.

    Attributes:
        bucket: its name, 1 to 250 of ``A-Z a-z 0-9 _ -``.
        history: revisions kept per key, 1 to 64.
        ttl: seconds every value lives; ``None`` is for ever.
        max_bytes: bytes of everything stored; a full bucket refuses (``StreamFull``).
        max_value_size: bytes of one value at most. The server, which counts headers as well, is told 1 KiB more, and
            so far other clients may go.
        storage: ``"file"`` outlives the server's process, ``"memory"`` does not.
        replicas: copies in a cluster, 1 to 5.
        marker_ttl: whole seconds for which the server keeps the word that a key has expired; a watch whose line is down
            for longer is told ``PURGE`` instead. No value's own time to live is shorter. ``None``: expiry is silent.
        description: free text.
    """

    bucket: str
    history: int = 10
    ttl: float | None = None
    max_bytes: int | None = None
    max_value_size: int | None = None
    storage: Literal["file", "memory"] = "file"
    replicas: int = 1
    marker_ttl: float | None = 5.0
    description: str = ""

    def __post_init__(self) -> None:
        check_bucket(self.bucket)
        in_range("history", self.history, 1, MAX_HISTORY, whole=True)
        if self.ttl is not None:
            in_range("ttl", self.ttl, 0.1)
        if self.max_bytes is not None:
            in_range("max_bytes", self.max_bytes, 1, whole=True)
        if self.max_value_size is not None:
            in_range("max_value_size", self.max_value_size, 1, _MOST_VALUE, whole=True)
        if self.marker_ttl is not None:
            in_range("marker_ttl", self.marker_ttl, 1)
            if self.marker_ttl != int(self.marker_ttl):
                raise InvalidOption(f"marker_ttl={self.marker_ttl!r}: must be whole seconds", option="marker_ttl")
        self.stream()

    def stream(self) -> StreamOptions:
        """The stream it is."""
        return StreamOptions(
            name=stream_of(self.bucket),
            subjects=[f"{prefix_of(self.bucket)}>"],
            storage=self.storage,
            max_bytes=self.max_bytes,
            max_age=self.ttl,
            max_msgs_per_subject=self.history,
            max_msg_size=None if self.max_value_size is None else self.max_value_size + _BESIDE,
            duplicate_window=_DUPLICATE_WINDOW if self.ttl is None else min(_DUPLICATE_WINDOW, self.ttl),
            discard="new",
            replicas=self.replicas,
            description=self.description,
            deny_delete=True,
            allow_rollup=True,
            atomic=False,
            delete_marker_ttl=self.marker_ttl,
        )

    @classmethod
    def of(cls, stream: StreamOptions) -> BucketOptions | None:
        """The bucket that a stream is; ``None`` when it is none."""
        bucket = stream.name.removeprefix(STREAM_PREFIX)
        if bucket == stream.name or not _BUCKET.match(bucket) or tuple(stream.subjects) != (f"{prefix_of(bucket)}>",):
            return None
        marker_ttl = stream.delete_marker_ttl
        return cls(
            bucket=bucket,
            history=min(stream.max_msgs_per_subject or MAX_HISTORY, MAX_HISTORY),
            ttl=stream.max_age,
            max_bytes=stream.max_bytes,
            max_value_size=value_size(stream.max_msg_size),
            storage=stream.storage,
            replicas=stream.replicas,
            marker_ttl=None if marker_ttl is None else float(int(marker_ttl)),  # a server counts whole seconds
            description=stream.description,
        )


def value_size(max_msg_size: int | None) -> int | None:
    """How large a value may be where a message may be so large (all of it, when that leaves no room for headers)."""
    return max_msg_size if max_msg_size is None or max_msg_size <= _BESIDE else max_msg_size - _BESIDE


STREAM_FIELDS: Final = {
    "max_msgs_per_subject": "history",
    "max_age": "ttl",
    "max_msg_size": "max_value_size",
    "delete_marker_ttl": "marker_ttl",
}
"""Fields of a stream that have another name on a bucket."""
LAYOUT: Final = frozenset(
    {
        *("subjects", "retention", "discard", "storage", "replicas", "description", "max_bytes", "duplicate_window"),
        *("deny_delete", "allow_rollup", "allow_msg_ttl", *STREAM_FIELDS),
    }
)
"""What makes a stream the bucket that was asked for; whatever else a stream does is its maker's affair."""
BUCKET_FIELDS: Final = tuple(field.name for field in fields(BucketOptions))


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketInfo:
    """A bucket as the server has it.

    Attributes:
        config: what it was made with.
        entries: revisions stored now, deletions included.
        bytes: stored now.
        last_revision: of the newest entry ever stored, 0 before the first.
        created: when it was made.
    """

    config: BucketOptions
    entries: int
    bytes: int
    last_revision: int
    created: datetime | None

    @property
    def bucket(self) -> str:
        """Its name."""
        return self.config.bucket


def check_bucket(bucket: object) -> str:
    """The name itself when it is one.

    Raises:
        InvalidOption: anything but 1 to 250 of ``A-Z a-z 0-9 _ -``.
    """
    if not isinstance(bucket, str) or not _BUCKET.match(bucket):
        raise InvalidOption(f"bucket={bucket!r}: must be 1 to 250 of A-Z a-z 0-9 _ -", option="bucket")
    return bucket


def stream_of(bucket: str) -> str:
    """The name of its stream."""
    return STREAM_PREFIX + bucket


def prefix_of(bucket: str) -> str:
    """What the subjects of its keys begin with."""
    return f"$KV.{bucket}."


def check_key(key: object) -> str:
    """The key itself when it is one.

    Raises:
        InvalidKey: anything but ``A-Z a-z 0-9 - _ / = .``, or a dot at an end or beside another.
    """
    if not isinstance(key, str) or not _KEY.match(key) or not _dots_are_fine(key):
        raise InvalidKey(f"key {key!r}: use A-Z a-z 0-9 - _ / = and single dots between them")
    return key


def subject_of(prefix: str, key: object) -> str:
    """The subject of a key.

    Raises:
        InvalidKey: it is none, or its subject is over 512 bytes.
    """
    subject = prefix + check_key(key)
    if len(subject) > MAX_SUBJECT_BYTES:
        raise InvalidKey(f"key of {len(subject) - len(prefix)} bytes: must be 1 to {MAX_SUBJECT_BYTES - len(prefix)}")
    return subject


def patterns_of(prefix: str, filters: Sequence[object]) -> tuple[str, ...]:
    """The subject patterns of key filters; one that another covers is left out, none at all means every key.

    Raises:
        InvalidKey: one is no filter: a key in which ``*`` may stand for a token and ``>``, last, for one or more.
        InvalidOption: two cover some of the same keys, but neither all of the other's.
    """
    wanted = dict.fromkeys(prefix + _check_filter(each) for each in filters or (">",))
    kept = [each for each in wanted if not any(other != each and covers(other, each) for other in wanted)]
    for index, left in enumerate(kept):
        for right in kept[index + 1 :]:
            if overlap(left, right):
                told = f"{left.removeprefix(prefix)!r} and {right.removeprefix(prefix)!r}"
                raise InvalidOption(f"filters {told} overlap: watch them apart", option="filters")
    return tuple(kept)


def _check_filter(given: object) -> str:
    if isinstance(given, str) and _FILTER.match(given) and _dots_are_fine(given):
        tokens = given.split(".")
        wild = all(token in {"*", ">"} for token in tokens if "*" in token or ">" in token)
        if wild and ">" not in tokens[:-1] and len(given) <= MAX_SUBJECT_BYTES // 2:
            return given
    raise InvalidKey(f"filter {given!r}: must be a key in which * stands for a token and >, last, for one or more")


def _dots_are_fine(key: str) -> bool:
    return not (key.startswith(".") or key.endswith(".") or ".." in key)
