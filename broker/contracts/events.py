"""What happens to a consumer and to the connection it is served on, told while it is being worked through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class ConsumerEventKind(StrEnum):
    """What happened. Whoever consumes goes on by itself, unless it says otherwise."""

    DISCONNECTED = "disconnected"
    """The connection broke; what was in flight is handed out again."""
    RECONNECTED = "reconnected"
    """It is back, and messages are asked for again."""
    CONSUMER_DELETED = "consumer_deleted"
    """The consumer is not there any more; it is made again, unless it may only be bound to."""
    CONSUMER_RECREATED = "consumer_recreated"
    """It was made again; ``detail`` says from where."""
    STREAM_DELETED = "stream_deleted"
    """The stream is not there any more: that is the end."""
    HEARTBEATS_MISSED = "heartbeats_missed"
    """The server was silent about what it was asked for; it is asked anew."""
    LEADER_CHANGED = "leader_changed"
    """Another server of the cluster serves the consumer now."""
    SERVER_SHUTDOWN = "server_shutdown"
    """The server that served it is going down."""
    NO_RESPONDERS = "no_responders"
    """Nobody took a request for messages: an election, or the consumer is gone."""
    LIMITS_EXCEEDED = "limits_exceeded"
    """A request went beyond what consumer or server allow; ``detail`` names the limit. Asked again within it."""
    PIN_LOST = "pin_lost"
    """Another worker of the priority group is served now."""
    PAUSED = "paused"
    """Nothing more is asked for, by ``pause`` or because ``on_error`` said so."""
    RESUMED = "resumed"
    """It goes on after a pause."""


@dataclass(frozen=True, slots=True)
class ConsumerEvent:
    """One happening.

    Attributes:
        kind: what it was; compares with its name as text.
        stream: of the consumer.
        consumer: its name.
        detail: more in words, for people; may be empty.
    """

    kind: ConsumerEventKind
    stream: str
    consumer: str
    detail: str = ""


Observe = Callable[[ConsumerEventKind, str], None]
"""Told what happened, and in words; returns at once and never raises."""
