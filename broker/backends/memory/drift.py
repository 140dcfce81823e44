"""How what is declared differs from what exists, field by field. No I/O."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broker.contracts.options import ConsumerOptions, StreamOptions

Differences = dict[str, tuple[object, object]]
"""Field -> (ours, the server's)."""


def consumer_name(options: ConsumerOptions) -> str | None:
    """The name a position is stored under; ``None`` for an unnamed consumer."""
    return options.durable or options.queue


def stream_differences(ours: StreamOptions, theirs: StreamOptions) -> Differences:
    """What differs; the order of subjects does not matter."""
    found: Differences = {}
    for field in fields(ours):
        asked, has = getattr(ours, field.name), getattr(theirs, field.name)
        same = set(asked) == set(has) if field.name == "subjects" else asked == has
        if not same:
            found[field.name] = (asked, has)
    return found


def consumer_differences(ours: ConsumerOptions, theirs: ConsumerOptions) -> Differences:
    """What differs; where it starts is not compared, nor what only says how to open it."""
    found: Differences = {}
    compared = ["acks", "queue", "lane", "priority_policy", "priority_timeout"]
    if ours.acks and theirs.acks:
        compared += ["max_ack_pending", "ack_wait"]
    for name in compared:
        asked, has = getattr(ours, name), getattr(theirs, name)
        if asked != has:
            found[name] = (asked, has)
    if set(ours.filters) != set(theirs.filters):
        found["filters"] = (ours.filters, theirs.filters)
    return found
