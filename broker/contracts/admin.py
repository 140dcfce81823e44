"""What a server says about its streams and consumers, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
    """

    messages: int
    bytes: int
    first_sequence: int
    last_sequence: int
    consumers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamInfo:
    """A stream as the server has it. ``config`` equals the ``StreamOptions`` it was declared with.

    Attributes:
        lane_counts: how many lanes each of its generations had, the newest last; empty for a stream without lanes.
    """

    config: StreamOptions
    state: StreamState
    created: datetime | None = None
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
