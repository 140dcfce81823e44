"""What can go wrong with a server this package starts."""

from __future__ import annotations

from broker.contracts.errors import BrokerError


class ServerError(BrokerError):
    """A nats-server could not be found, started or kept running; the message carries the end of its log."""


class InUse(ServerError):
    """A port or the store this server needs is used by another process."""


class CrashLoop(ServerError):
    """A watched server died again and again and is not brought back any more; the message says what to look at."""
