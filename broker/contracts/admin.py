"""What a server says about its streams and consumers, as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from broker.contracts.options import ConsumerOptions, StreamOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamState:
    """How full a stream is.

    Attributes:
        messages: stored now.
        bytes: stored now.
        first_sequence: of the oldest message (last_sequence + 1 when empty).
        last_sequence: of the newest message ever stored, 0 before the first.
        consumers: how many consumers it has.
        subjects: how many different subjects are stored now.
        deleted: sequences between first and last that are not there any more.
    """

    messages: int
    bytes: int
    first_sequence: int
    last_sequence: int
    consumers: int
    subjects: int = 0
    deleted: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginState:
    """How far a mirror or a source has got.

    Attributes:
        name: of the stream it reads.
        lag: messages it is behind.
        idle: seconds since it heard from there; ``None``: never.
        error: the server's words when it cannot read there.
    """

    name: str
    lag: int
    idle: float | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamInfo:
    """A stream as the server has it. ``config`` equals the ``StreamOptions`` it was declared with.

    Attributes:
        mirror: how far a mirror has got.
        sources: how far it has got with each of its sources.
        lane_counts: how many lanes each of its generations had, the newest last; empty for a stream without lanes.
    """

    config: StreamOptions
    state: StreamState
    created: datetime | None = None
    mirror: OriginState | None = None
    sources: tuple[OriginState, ...] = ()
    lane_counts: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """The stream's name."""
        return self.config.name

    @property
    def messages(self) -> int:
        """Messages stored now."""
        return self.state.messages


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerInfo:
    """A consumer as the server has it.

    Attributes:
        pending: messages not handed out yet.
        ack_pending: handed out, not settled.
        redelivered: handed out more than once, not settled.
        waiting: pulls waiting for a message.
        delivered_sequence: the highest stream sequence handed out.
        ack_floor: every stream sequence up to here is settled.
        paused_until: until when it hands out nothing; ``None`` when it is not paused.
        pinned: priority group -> the id of the worker that has it alone (``pinned_client``).
        max_deliver: how often the server hands a message out before it gives up on it by itself; ``None``, as ours
            are: without end.
    """

    stream: str
    name: str
    config: ConsumerOptions
    pending: int
    ack_pending: int
    redelivered: int
    waiting: int
    delivered_sequence: int
    ack_floor: int
    created: datetime | None = None
    paused_until: datetime | None = None
    pinned: Mapping[str, str] = field(default_factory=dict)
    max_deliver: int | None = None
