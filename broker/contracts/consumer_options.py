"""``ConsumerOptions``: everything a consumer is made with, and where reading begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Final, Literal

from broker.contracts.checks import check_flags, check_kind, check_moment, check_words, in_range, one_of
from broker.contracts.claims import Claim, check_group
from broker.contracts.errors import InvalidOption
from broker.contracts.features import items_of
from broker.contracts.subjects import publish_subject, resource_name, subscribe_pattern

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker.contracts.features import ConsumerLimits
    from broker.contracts.lanes import Lane

Ensure = Literal["verify", "update", "bind"]
"""verify: create what is missing, raise ``ConfigDrift`` on a difference. update: bring the server in line.
bind: touch no management API."""

Start = Literal["first", "last", "new", "last_per_subject"] | int | datetime
"""Where reading begins: a word, a stream sequence (from 1), or the first message stored at or after a time."""

PriorityPolicy = Literal["overflow", "prioritized", "pinned_client"]
"""overflow: a worker is served only above thresholds it names. prioritized: the lowest number first. pinned_client: one
worker alone, until it is away for ``priority_timeout``."""

Replay = Literal["instant", "original"]
"""instant: as fast as they are asked for. original: with the pauses with which they were stored."""

UNNAMED_THRESHOLD: Final = 30.0
"""Seconds an unnamed consumer outlives its last worker unless said otherwise."""
_ENSURE: Final = frozenset({"verify", "update", "bind"})
_START_WORDS: Final = frozenset({"first", "last", "new", "last_per_subject"})
_MAX_REPLICAS: Final = 5
_PER_CENT: Final = 100
_PINNED_TIMEOUT: Final = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerOptions:
    """A consumer on the server: a stored position in a stream, shared by the workers who use its name.

    Attributes:
        durable: its name; ``None`` makes an unnamed one that the server removes after ``inactive_threshold``.
        queue: the workers' group name; kept with the consumer so that two groups cannot share a position by accident.
        filters: the patterns it delivers, which must not overlap; empty means all of the stream.
        stream: the stream; ``None`` looks it up by the first filter.
        max_ack_pending: unsettled deliveries allowed in the whole group.
        ack_wait: seconds until an unsettled delivery is handed out again.
        acks: ``False`` for readers: nothing to settle, nothing redelivered. Never changes.
        start: where a new consumer begins; an existing one keeps its position.
        inactive_threshold: seconds without a worker after which it is removed. ``None``: 30 for an unnamed one, or what
            the stream's ``consumer_limits`` allow; for a named one what they say, else never.
        ensure: see ``Ensure``.
        description: free text, at most 4 KiB.
        metadata: free names and values; those starting with ``_nats`` or ``gamebroker.`` are not yours.
        replicas: copies of its position; ``None`` has as many as the stream, and more than those it cannot have.
        memory: keep its position in memory: faster, and gone with the server. Never changes.
        headers_only: deliver headers without bodies; the header ``Nats-Msg-Size`` tells the size.
        sample: of how many per cent of acks (1 to 100) the server publishes how long they took.
        priority_policy: how groups of workers share it; see ``PriorityPolicy``.
        priority_groups: names of those groups, 1 to 16 of ``A-Z a-z 0-9 - _ / =``; needed with a policy, and refused
            without one.
        priority_timeout: ``pinned_client``: seconds a silent worker keeps its place, 120 by default.
        deliver_subject: makes it a push consumer, which sends here what it has. To or from push it never changes.
        deliver_group: push: the queue group that shares ``deliver_subject``.
        flow_control: push: the server waits for the reader; needs ``idle_heartbeat``. Never changes.
        idle_heartbeat: push: seconds, at least 0.1, between signs of life when there is nothing. Never changes.
        rate_limit: push: bits per second at most.
        replay: see ``Replay``. Never changes.
        claim: what this worker claims in a priority group; no setting of the consumer.
        lane: only this lane of a stream with lanes, and what ``queue`` tries again of it.

    Raises:
        InvalidOption, InvalidSubject: a value out of its range, or two that contradict; ``.option`` names it.
    """

    durable: str | None = None
    queue: str | None = None
    filters: Sequence[str] = ()
    stream: str | None = None
    max_ack_pending: int = 256
    ack_wait: float = 30.0
    acks: bool = True
    start: Start = "first"
    inactive_threshold: float | None = None
    ensure: Ensure = "verify"
    description: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    replicas: int | None = None
    memory: bool = False
    headers_only: bool = False
    sample: int | None = None
    priority_policy: PriorityPolicy | None = None
    priority_groups: Sequence[str] = ()
    priority_timeout: float | None = None
    deliver_subject: str | None = None
    deliver_group: str | None = None
    flow_control: bool = False
    idle_heartbeat: float | None = None
    rate_limit: int | None = None
    replay: Replay = "instant"
    claim: Claim | None = None
    lane: Lane | None = None

    def __post_init__(self) -> None:
        for name, what in ((self.durable, "durable"), (self.queue, "queue"), (self.stream, "stream")):
            if name is not None:
                resource_name(name, what)
        if isinstance(self.filters, str | bytes) or not isinstance(self.filters, Sequence):
            raise InvalidOption(f"filters={self.filters!r}: must be a list of patterns", option="filters")
        object.__setattr__(self, "filters", tuple(subscribe_pattern(each) for each in self.filters))
        in_range("max_ack_pending", self.max_ack_pending, 1, 1_000_000, whole=True)
        in_range("ack_wait", self.ack_wait, 0.05)
        check_flags(self, ("acks", "memory", "headers_only", "flow_control"))
        if self.claim is not None:
            check_kind("claim", self.claim, Claim, "a Claim", shown=True)
        check_ensure(self.ensure)
        check_start(self.start)
        one_of("replay", self.replay, ("instant", "original"))
        self._check_particulars()
        self._check_priority()
        self._check_push()
        if not self.filters and self.stream is None:
            raise InvalidOption("a consumer needs a subject or stream=", option="stream")
        if self.lane is not None and self.queue is None:
            raise InvalidOption("lane= needs queue=: what is tried again belongs to a group", option="queue")
        if self.ensure == "bind" and self.durable is None:
            raise InvalidOption("ensure='bind' needs durable= or queue=: there is nothing to bind to", option="durable")

    @property
    def unnamed(self) -> bool:
        """Whether it is one worker's own: nobody else could find it."""
        return self.durable is None and self.queue is None

    @property
    def threshold(self) -> float | None:
        """Seconds without a worker after which the server removes it; ``None``: never."""
        if self.inactive_threshold is not None:
            return self.inactive_threshold
        return UNNAMED_THRESHOLD if self.unnamed else None

    @property
    def leaves_groups(self) -> bool:
        """Whether it takes the priority groups as they are, to ask within one of them."""
        return self.claim is not None and self.priority_policy is None

    def _check_particulars(self) -> None:
        check_words(self.description, self.metadata)
        if self.inactive_threshold is not None:
            in_range("inactive_threshold", self.inactive_threshold, 0.1)
        if self.replicas is not None:
            in_range("replicas", self.replicas, 1, _MAX_REPLICAS, whole=True)
        if self.sample is not None:
            in_range("sample", self.sample, 1, _PER_CENT, whole=True)

    def _check_priority(self) -> None:
        object.__setattr__(self, "priority_groups", items_of("priority_groups", self.priority_groups, str))
        for group in self.priority_groups:
            check_group("priority_groups", group)
        if self.priority_policy is not None:
            self._check_policy()
            return
        for option in ("priority_groups", "priority_timeout"):
            if getattr(self, option) not in ((), None):
                raise InvalidOption(f"{option} needs priority_policy", option=option)

    def _check_policy(self) -> None:
        one_of("priority_policy", self.priority_policy, ("overflow", "prioritized", "pinned_client"))
        if not self.priority_groups:
            raise InvalidOption("priority_policy needs at least one of priority_groups", option="priority_groups")
        if self.deliver_subject is not None:
            raise InvalidOption("priority_policy: not for a push consumer (deliver_subject)", option="priority_policy")
        if self.priority_policy == "pinned_client":
            if self.priority_timeout is None:
                object.__setattr__(self, "priority_timeout", _PINNED_TIMEOUT)
            in_range("priority_timeout", self.priority_timeout, 0.1)
        elif self.priority_timeout is not None:
            told = 'priority_timeout needs priority_policy="pinned_client"'
            raise InvalidOption(told, option="priority_timeout")

    def _check_push(self) -> None:
        if self.deliver_subject is None:
            for option in ("deliver_group", "flow_control", "idle_heartbeat", "rate_limit"):
                if getattr(self, option) not in (None, False):
                    raise InvalidOption(f"{option} is for push consumers: it needs deliver_subject", option=option)
            return
        publish_subject(self.deliver_subject)
        if self.deliver_group is not None:
            resource_name(self.deliver_group, "deliver group")
        if self.idle_heartbeat is not None:
            in_range("idle_heartbeat", self.idle_heartbeat, 0.1)
        elif self.flow_control:
            raise InvalidOption("flow_control needs idle_heartbeat", option="flow_control")
        if self.rate_limit is not None:
            in_range("rate_limit", self.rate_limit, 1, whole=True)


def fitting(options: ConsumerOptions, limits: ConsumerLimits | None) -> ConsumerOptions:
    """The same in a stream with these limits: an unnamed one that says nothing stays for as long as it may."""
    longest = None if limits is None else limits.inactive_threshold
    if longest is None or options.inactive_threshold is not None or (options.threshold or 0) <= longest:
        return options
    return replace(options, inactive_threshold=longest)


def check_ensure(ensure: object) -> None:
    """Refuse an ``ensure`` that is none of the three words."""
    one_of("ensure", ensure, _ENSURE)


def check_start(start: object) -> None:
    """Refuse what is no place to begin reading."""
    if isinstance(start, str):
        one_of("start", start, _START_WORDS)
    elif isinstance(start, int):
        in_range("start", start, 1, whole=True)
    else:
        check_moment("start", start, "a word, a sequence or a datetime")
