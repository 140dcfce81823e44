"""How what is asked differs from what a server has, field by field, and which of it no server ever changes. No I/O."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from broker.contracts.options import ConsumerOptions, StreamOptions

Differences = dict[str, tuple[object, object]]
"""Field -> (ours, the server's)."""

FIXED_HINT: Final = "; this never changes: it has to be deleted and made anew"
"""How a ``ConfigDrift`` ends that lists what cannot be updated."""
_NANOSECONDS: Final = 1e9
_SETS: Final = frozenset({"subjects", "filters", "priority_groups"})
_STREAM_FIXED: Final = frozenset({"storage", "persist_mode", "counters", "first_seq"})
_STREAM_FOR_GOOD: Final = frozenset({"deny_delete", "deny_purge", "sealed", "schedules", "allow_msg_ttl"})
"""Can be switched on and never off."""
_CONSUMER_OPENING: Final = frozenset({"durable", "stream", "start", "ensure", "claim"})
"""Say which consumer and how to open it; no settings of one that exists."""
_CONSUMER_SAID: Final = frozenset({"description", "metadata", "replicas", "sample", "inactive_threshold", "rate_limit"})
"""Compared only when something is asked: whoever consumes has no opinion on them."""
_CONSUMER_GROUPS: Final = frozenset({"priority_policy", "priority_groups", "priority_timeout"})
"""Nor on these whoever claims a place in a group that is there."""
_CONSUMER_ACKING: Final = frozenset({"max_ack_pending", "ack_wait"})
_CONSUMER_FIXED: Final = frozenset({"acks", "memory", "deliver_group", "flow_control", "idle_heartbeat", "replay"})


def stream_differences(ours: StreamOptions, theirs: StreamOptions) -> Differences:
    """What differs. The order of subjects does not matter; ``mirror_direct`` of a mirror is its origin's affair."""
    found = _differences(ours, theirs)
    found.pop("name", None)
    if ours.mirror is not None:
        found.pop("mirror_direct", None)
    return found


def fixed_in_stream(differences: Differences) -> Differences:
    """Those of the differences that no update can bring in line."""
    return {field: both for field, both in differences.items() if _is_fixed(field, *both)}


def _is_fixed(field: str, ours: object, theirs: object) -> bool:
    if field in _STREAM_FOR_GOOD:
        return not ours
    if field == "retention":
        return "workqueue" in {ours, theirs}
    if field == "lanes":
        return None in {ours, theirs}  # what is stored is filed by lane, or is not
    if field == "mirror":
        return ours is not None
    return field in _STREAM_FIXED


def consumer_differences(ours: ConsumerOptions, theirs: ConsumerOptions) -> Differences:
    """What differs; where it starts is not compared, nor what is left to the server."""
    found = _differences(ours, theirs)
    if ours.queue == ours.durable and found.get("queue") == (ours.queue, None):
        del found["queue"]  # made without a word of a queue, and we mean its name only
    ignored = set(_CONSUMER_OPENING) | {field for field in _CONSUMER_SAID if not getattr(ours, field)}
    if not (ours.acks and theirs.acks):
        ignored |= _CONSUMER_ACKING
    if ours.leaves_groups:
        ignored |= _CONSUMER_GROUPS
    return {field: both for field, both in found.items() if field not in ignored}


def fixed_in_consumer(differences: Differences) -> Differences:
    """Those of the differences that no update can bring in line."""
    return {
        field: both
        for field, both in differences.items()
        if field in _CONSUMER_FIXED or (field == "deliver_subject" and None in both)
    }


def _differences(ours: Any, theirs: Any) -> Differences:
    found: Differences = {}
    for field in fields(ours):
        asked, has = getattr(ours, field.name), getattr(theirs, field.name)
        same = set(asked) == set(has) if field.name in _SETS else _same(asked, has)
        if not same:
            found[field.name] = (asked, has)
    return found


def _same(asked: Any, has: Any) -> bool:
    """Seconds are the same when they are the same number of nanoseconds, which is what a server keeps."""
    if is_dataclass(asked) and type(asked) is type(has):
        return all(_same(getattr(asked, each.name), getattr(has, each.name)) for each in fields(asked))
    if isinstance(asked, float | int) and isinstance(has, float | int):
        return asked == has or round(asked * _NANOSECONDS) == round(has * _NANOSECONDS)
    return bool(asked == has)
