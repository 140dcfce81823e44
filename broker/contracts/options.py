"""Settings that live long: streams, consumers, connections. Frozen, and checked when they are made.

Times are seconds as ``float``; ``None`` means unlimited.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal

from broker.contracts.errors import InvalidOption, InvalidSubject
from broker.contracts.lanes import MOST_LANES
from broker.contracts.subjects import overlap, publish_subject, resource_name, subscribe_pattern

if TYPE_CHECKING:
    import ssl

    from broker.contracts.lanes import Lane

Ensure = Literal["verify", "update", "bind"]
"""verify: create what is missing, raise ``ConfigDrift`` on a difference. update: bring the server in line.
bind: touch no management API."""

Overflow = Literal["drop_oldest", "latest", "drop_newest"]

LinkChoice = Literal["wire", "nats-py"]

Start = Literal["first", "last", "new", "last_per_subject"] | int | datetime
"""Where reading begins: a word, a stream sequence (from 1), or the first message stored at or after a time."""

_ENSURE: Final = frozenset({"verify", "update", "bind"})
_START_WORDS: Final = frozenset({"first", "last", "new", "last_per_subject"})
_MAX_REPLICAS: Final = 5
_MOST_WHOLE: Final = 2**62
_MOST_SECONDS: Final = 946_080_000.0


def one_of(option: str, value: object, allowed: Sequence[str] | frozenset[str]) -> None:
    """Refuse a word that is not one of the allowed ones."""
    if value not in allowed:
        raise InvalidOption(f"{option}={value!r}: must be one of {', '.join(sorted(allowed))}", option=option)


def in_range(option: str, value: Any, low: float, high: float | None = None, *, whole: bool = False) -> None:
    """Refuse a number outside ``low`` to ``high``, both allowed, and anything that is not a number.

    Without ``high``: what a server can still count (2^62, or 30 years of seconds).
    """
    kinds = (int,) if whole else (int, float)
    most = high if high is not None else _MOST_WHOLE if whole else _MOST_SECONDS
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= most:
        number = "a whole number" if whole else "a number"
        endless = high is None and value != float("inf")
        bound = f"of at least {_written(low)}" if endless else f"from {_written(low)} to {_written(most)}"
        raise InvalidOption(f"{option}={value!r}: must be {number} {bound}", option=option)


def _written(number: float) -> str:
    """A bound as people write it: whole numbers whole, however large."""
    return f"{int(number):,}" if float(number).is_integer() else f"{number:g}"


def check_ensure(ensure: object) -> None:
    """Refuse an ``ensure`` that is none of the three words."""
    one_of("ensure", ensure, _ENSURE)


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """A stream: which subjects it stores, how, and for how long.

    Attributes:
        name: of the stream; no dots, wildcards or blanks.
        subjects: the patterns it captures; they must not overlap with another stream's.
        storage: ``"file"`` outlives the server's process, ``"memory"`` does not.
        retention: ``"limits"`` keeps messages until a limit; ``"workqueue"`` until acked; ``"interest"`` until every
            consumer acked. With the last two the server forgets the idempotency keys of acked messages when it
            restarts, so money belongs on ``"limits"``.
        max_msgs: messages kept at most.
        max_bytes: bytes kept at most.
        max_age: seconds a message is kept at most.
        max_msgs_per_subject: messages kept at most per subject.
        max_msg_size: bytes of one message (headers included) at most.
        duplicate_window: seconds within which a repeated idempotency key is dropped. At most ``max_age``.
        discard: what a full stream does: ``"new"`` refuses (``StreamFull``), ``"old"`` silently drops the oldest,
            read or not.
        replicas: copies in a cluster, 1 to 5; odd numbers make sense.
        description: free text.
        metadata: free names and values; names starting with ``_nats`` belong to the server.
        durability: reserved for the declared durability check; must be ``None`` in this version.
        lanes: how many messages with an ``ordering_key`` can be handled at once, each key in its order, 1 to 1,024; for
            ``consume(ordered=True)``. ``None`` keeps no order between workers. Not with ``"interest"``.
    """

    name: str
    subjects: Sequence[str]
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

    def __post_init__(self) -> None:
        resource_name(self.name, "stream")
        if isinstance(self.subjects, str) or not isinstance(self.subjects, Sequence):
            raise InvalidOption(f"subjects={self.subjects!r}: must be a list of patterns", option="subjects")
        object.__setattr__(self, "subjects", tuple(subscribe_pattern(each) for each in self.subjects))
        if not self.subjects:
            raise InvalidOption("subjects: a stream needs at least one pattern", option="subjects")
        self._check_overlap()
        one_of("storage", self.storage, ("file", "memory"))
        one_of("retention", self.retention, ("limits", "workqueue", "interest"))
        one_of("discard", self.discard, ("new", "old"))
        in_range("replicas", self.replicas, 1, _MAX_REPLICAS, whole=True)
        for option in ("max_msgs", "max_bytes", "max_msgs_per_subject", "max_msg_size"):
            if getattr(self, option) is not None:
                in_range(option, getattr(self, option), 1, whole=True)
        if self.max_age is not None:
            in_range("max_age", self.max_age, 0.1)
        in_range("duplicate_window", self.duplicate_window, 0.1)
        if self.max_age is not None and self.duplicate_window > self.max_age:
            raise InvalidOption(
                f"duplicate_window={self.duplicate_window:g} is longer than max_age={self.max_age:g}: "
                "a key cannot be remembered longer than its message",
                option="duplicate_window",
            )
        if self.durability is not None:
            raise InvalidOption("durability is not available in this version", option="durability")
        self._check_lanes()

    def _check_lanes(self) -> None:
        if self.lanes is None:
            return
        in_range("lanes", self.lanes, 1, MOST_LANES, whole=True)
        if self.retention == "interest":
            raise InvalidOption("lanes need retention 'limits' or 'workqueue', not 'interest'", option="lanes")

    def _check_overlap(self) -> None:
        for index, left in enumerate(self.subjects):
            for right in self.subjects[index + 1 :]:
                if overlap(left, right):
                    raise InvalidOption(f"subjects {left!r} and {right!r} overlap", option="subjects")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerOptions:
    """A consumer on the server: a stored position in a stream, shared by the workers who use its name.

    Attributes:
        durable: its name; ``None`` makes an unnamed one that the server removes after ``inactive_threshold``.
        queue: the workers' group name; kept with the consumer so that two groups cannot share a position by accident.
        filters: the patterns it delivers; empty means all of the stream.
        stream: the stream; ``None`` looks it up by the first filter.
        max_ack_pending: unsettled deliveries allowed in the whole group.
        ack_wait: seconds until an unsettled delivery is handed out again.
        acks: ``False`` for readers: nothing to settle, nothing redelivered.
        start: where a new consumer begins; an existing one keeps its position.
        inactive_threshold: seconds without a worker after which an unnamed consumer is removed.
        ensure: see ``Ensure``.
        lane: only this lane of a stream with lanes, and what ``queue`` tries again of it.
        priority_groups: names of the groups that pulls belong to; the server takes one at most.
        priority_policy: which pull of a group is served first; ``"pinned_client"``: only one worker's.
        priority_timeout: seconds without a pull after which a pinned worker loses its place to another.
    """

    durable: str | None = None
    queue: str | None = None
    filters: Sequence[str] = ()
    stream: str | None = None
    max_ack_pending: int = 256
    ack_wait: float = 30.0
    acks: bool = True
    start: Start = "first"
    inactive_threshold: float = 30.0
    ensure: Ensure = "verify"
    lane: Lane | None = None
    priority_groups: Sequence[str] = ()
    priority_policy: Literal["pinned_client"] | None = None
    priority_timeout: float | None = None

    def __post_init__(self) -> None:
        for name, what in ((self.durable, "durable"), (self.queue, "queue"), (self.stream, "stream")):
            if name is not None:
                resource_name(name, what)
        object.__setattr__(self, "filters", tuple(subscribe_pattern(each) for each in self.filters))
        in_range("max_ack_pending", self.max_ack_pending, 1, 1_000_000, whole=True)
        in_range("ack_wait", self.ack_wait, 0.05)
        in_range("inactive_threshold", self.inactive_threshold, 0.1)
        check_ensure(self.ensure)
        check_start(self.start)
        if self.priority_timeout is not None:
            in_range("priority_timeout", self.priority_timeout, 0.1)
        if self.lane is not None and self.queue is None:
            raise InvalidOption("lane= needs queue=: what is tried again belongs to a group", option="queue")
        if not self.filters and self.stream is None:
            raise InvalidOption("a consumer needs a subject or stream=", option="stream")
        if self.ensure == "bind" and self.durable is None:
            raise InvalidOption("ensure='bind' needs durable= or queue=: there is nothing to bind to", option="durable")


def check_start(start: object) -> None:
    """Refuse what is no place to begin reading."""
    if isinstance(start, str):
        one_of("start", start, _START_WORDS)
    elif isinstance(start, datetime):
        if start.tzinfo is None:
            raise InvalidOption(f"start={start!r}: the time needs a time zone", option="start")
    else:
        in_range("start", start, 1, whole=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumeOptions:
    """How ``consume`` works through a consumer; everything here is the library's own policy.

    Attributes:
        concurrency: handlers (``async def``) running at once in this process. A plain function runs inline, one at a
            time.
        max_deliver: attempts a message gets before it is dead-lettered.
        backoff: seconds before attempt 2, 3, ...; the last one repeats. Each is lengthened by up to 10 % at random so
            that a burst does not return as a burst.
        dead_letter: keep what gave up in the dead letters; ``False`` terminates it without a copy.
        auto_extend: prolong the ack wait while a message is in hand, however long its handler takes.
    """

    concurrency: int = 16
    max_deliver: int = 5
    backoff: Sequence[float] = (1.0, 5.0, 30.0, 120.0)
    dead_letter: bool = True
    auto_extend: bool = True

    def __post_init__(self) -> None:
        in_range("concurrency", self.concurrency, 1, 100_000, whole=True)
        in_range("max_deliver", self.max_deliver, 1, whole=True)
        if isinstance(self.backoff, str) or not isinstance(self.backoff, Sequence):
            raise InvalidOption(f"backoff={self.backoff!r}: must be a sequence of seconds", option="backoff")
        for seconds in self.backoff:
            in_range("backoff", seconds, 0)
        object.__setattr__(self, "backoff", tuple(self.backoff))


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectOptions:
    """Where and as whom to connect. Secrets stay out of its ``repr``.

    Attributes:
        url: one URL or several separated by commas, scheme first.
        name: shown by the server next to the connection.
        tls: context for TLS connections; ``None`` uses the system's for ``tls://`` and ``wss://``.
        inbox_prefix: first tokens of reply subjects; one per role keeps others from reading the replies.
        connect_timeout: seconds for the first connection, all attempts together.
        outbound_limit: bytes of core messages held unsent at most; beyond it the oldest are dropped and counted.
        link: what speaks NATS: our own wire, or nats-py, which alone reaches ``ws://`` and ``wss://`` servers and is
            taken for them; ``None`` chooses so.
        tls_first: shake hands before the server's first word, for servers with ``handshake_first``.
        echo: whether what this connection publishes comes back to its own subscriptions.
    """

    url: str = field(repr=False)
    name: str | None = None
    tls: ssl.SSLContext | None = None
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    creds: str | None = field(default=None, repr=False)
    inbox_prefix: str = "_INBOX"
    connect_timeout: float = 5.0
    outbound_limit: int = 8 << 20
    link: LinkChoice | None = None
    tls_first: bool = False
    echo: bool = True

    def __post_init__(self) -> None:
        if self.link is not None:
            one_of("link", self.link, ("wire", "nats-py"))
        if not isinstance(self.url, str):
            raise InvalidOption("url: must be text; several servers are separated by commas", option="url")
        in_range("connect_timeout", self.connect_timeout, 0.001)
        in_range("outbound_limit", self.outbound_limit, 1, whole=True)
        for option in ("tls_first", "echo"):
            _check_kind(option, getattr(self, option), bool, "True or False", shown=True)
        if self.name is not None:
            _check_kind("name", self.name, str, "text", shown=True)
        for option in ("user", "password", "token"):
            if getattr(self, option) is not None:
                _check_kind(option, getattr(self, option), str, "text", shown=False)
        if self.creds is not None:
            _check_kind("creds", self.creds, (str, os.PathLike), "the path of a credentials file", shown=False)
            object.__setattr__(self, "creds", os.fsdecode(self.creds))
        if self.tls is not None and not _is_tls_context(self.tls):
            raise InvalidOption(f"tls={self.tls!r}: must be an ssl.SSLContext or None", option="tls")
        self._check_identity()
        try:
            publish_subject(self.inbox_prefix)
        except InvalidSubject as exc:
            told = f"inbox_prefix={self.inbox_prefix!r}: must be the first tokens of a subject: {exc}"
            raise InvalidOption(told, option="inbox_prefix") from None

    def _check_identity(self) -> None:
        """One way to say who we are: whoever names two would not know as whom they are connected."""
        if self.user is not None and self.password is None:
            raise InvalidOption("user= needs password= (which may be empty)", option="password")
        if self.token is not None and self.user is not None:
            raise InvalidOption("token= and user= contradict: give one of them", option="token")
        if self.creds is not None and (self.user is not None or self.token is not None):
            raise InvalidOption("creds= stands instead of user= and token=: give one of them", option="creds")


def _check_kind(option: str, value: object, kind: type | tuple[type, ...], must: str, *, shown: bool) -> None:
    """Refuse a value of another type; what may be a secret is not shown."""
    if not isinstance(value, kind):
        told = f"{option}={value!r}" if shown else option
        raise InvalidOption(f"{told}: must be {must}", option=option)


def _is_tls_context(value: object) -> bool:
    """Whether it is a TLS context. Nobody has one without having imported ssl, so we need not."""
    module = sys.modules.get("ssl")
    return module is not None and isinstance(value, module.SSLContext)
