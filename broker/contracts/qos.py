"""Quality of service, declared per message type."""

from __future__ import annotations

from enum import IntEnum


class QoS(IntEnum):
    """How much a message type is worth.

    AT_MOST_ONCE: core tier; fast, may be lost, never repeated by us.
    AT_LEAST_ONCE: stream tier; stored, redelivered until settled.
    EXACTLY_ONCE: stream tier with an inbox; the effect happens once in the database that holds the inbox.
    """

    AT_MOST_ONCE = 0
    AT_LEAST_ONCE = 1
    EXACTLY_ONCE = 2
