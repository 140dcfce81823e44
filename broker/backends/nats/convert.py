"""Times and consumers as the server's JSON and back (streams: ``stream_config``). Durations are nanoseconds there."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from broker.backends.nats.lanes import plain_filters
from broker.contracts.admin import ConsumerInfo
from broker.contracts.checks import RESERVED
from broker.contracts.consumer_options import UNNAMED_THRESHOLD
from broker.contracts.drift import Differences, consumer_differences
from broker.contracts.lanes import lane_of_filter
from broker.contracts.options import ConsumerOptions, Start

if TYPE_CHECKING:
    from collections.abc import Sequence

QUEUE: Final = "gamebroker.queue"
"""Metadata key that keeps a consumer's queue group."""
SERVERS_OWN: Final = "_nats"
_SECOND: Final = 1_000_000_000
_STARTS: Final = {"first": "all", "last": "last", "new": "new", "last_per_subject": "last_per_subject"}
_START_WORDS: Final[dict[str, Start]] = {
    "all": "first",
    "last": "last",
    "new": "new",
    "last_per_subject": "last_per_subject",
}
_PARTICULARS: Final = ("description", "deliver_subject", "deliver_group", "headers_only", "flow_control")
_MOST_PENDING: Final = 1_000_000
_UNASKED_PENDING: Final = 256
_UNLIMITED: Final = -1
"""Without acks nothing is pending: the options say what they say by default."""
_GROUPS: Final = ("priority_groups", "priority_policy", "priority_timeout")
_MERGED: Final = frozenset(
    {
        *("ack_wait", "max_ack_pending", "filter_subject", "filter_subjects", "inactive_threshold", "num_replicas"),
        *("sample_freq", "rate_limit_bps", *_GROUPS, *_PARTICULARS),
    }
)
"""What an update lays over an existing consumer; the rest never changes, or is where it starts."""
_CLEARED: Final = ("filter_subject", "filter_subjects", "backoff", "headers_only")
"""Gone from an existing consumer unless asked for; so are the groups, unless a place in them is claimed."""


def nanoseconds(seconds: float | None) -> int:
    """Seconds as the wire has them; ``None`` is 0."""
    return 0 if seconds is None else round(seconds * _SECOND)


def seconds(value: Any) -> float | None:
    """Nanoseconds as seconds; 0 or absent is ``None``."""
    return value / _SECOND if value else None


def when(text: str | None) -> datetime | None:
    """A server's RFC 3339 time."""
    if not text or text.startswith("0001-"):
        return None
    return datetime.fromisoformat(_microseconds(text))


def timestamp_ns(text: str) -> int:
    """A server's RFC 3339 time as nanoseconds since the epoch, none of them lost."""
    whole, _, rest = text.partition(".")
    if not rest:
        return int(datetime.fromisoformat(text).timestamp()) * _SECOND
    digits = rest.rstrip("Zz")
    zone = "+00:00"
    for sign in "+-":
        if sign in rest:
            digits, _, offset = rest.partition(sign)
            zone = sign + offset
    return int(datetime.fromisoformat(whole + zone).timestamp()) * _SECOND + int(digits.ljust(9, "0")[:9])


def _microseconds(text: str) -> str:
    """The same time with at most six digits after the point, which is all ``datetime`` keeps."""
    whole, _, rest = text.partition(".")
    if not rest:
        return text
    digits = len(rest) - len(rest.lstrip("0123456789"))
    return f"{whole}.{rest[: min(digits, 6)]}{rest[digits:]}"


def own_metadata(config: dict[str, Any]) -> dict[str, str]:
    """Metadata without what belongs to the server or to us."""
    given = config.get("metadata") or {}
    return {key: value for key, value in given.items() if not key.startswith(RESERVED)}


def moment(time: datetime) -> str:
    """A time as the server writes it."""
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def consumer_config(options: ConsumerOptions, name: str, filters: Sequence[str] | None = None) -> dict[str, Any]:
    """What we ask of a consumer; ``filters`` as things are stored, where that is not as they are sent.

    ``max_deliver`` stays unlimited: attempts are counted by the facade.
    """
    config: dict[str, Any] = {
        "name": name,
        "ack_policy": "explicit" if options.acks else "none",
        "replay_policy": options.replay,
        "max_deliver": -1,
        "num_replicas": options.replicas or 0,
        **_start(options.start),
        **_particulars(options),
    }
    if options.acks:
        config["ack_wait"] = nanoseconds(options.ack_wait)
        config["max_ack_pending"] = options.max_ack_pending
    elif options.deliver_subject is not None:
        config["max_ack_pending"] = _UNLIMITED  # or the stream's consumer_limits would be taken over, and refused
    if options.threshold is not None:
        config["inactive_threshold"] = nanoseconds(options.threshold)
    if options.durable is not None or options.queue is not None:
        config["durable_name"] = name
    filters = options.filters if filters is None else filters
    if len(filters) == 1:
        config["filter_subject"] = filters[0]
    elif filters:
        config["filter_subjects"] = list(filters)
    metadata = {**options.metadata, **({} if options.queue is None else {QUEUE: options.queue})}
    if metadata:
        config["metadata"] = metadata
    return config


def _particulars(options: ConsumerOptions) -> dict[str, Any]:
    """What most consumers do not say: left out then, as the server does."""
    said: dict[str, Any] = {field: getattr(options, field) for field in _PARTICULARS}
    said |= {
        "mem_storage": options.memory,
        "sample_freq": f"{options.sample}%" if options.sample is not None else None,
        "idle_heartbeat": nanoseconds(options.idle_heartbeat),
        "rate_limit_bps": options.rate_limit,
        "priority_policy": options.priority_policy,
        "priority_groups": list(options.priority_groups),
        "priority_timeout": nanoseconds(options.priority_timeout),
    }
    return {key: value for key, value in said.items() if value}


def _start(start: Start) -> dict[str, Any]:
    if isinstance(start, str):
        return {"deliver_policy": _STARTS[start]}
    if isinstance(start, datetime):
        return {"deliver_policy": "by_start_time", "opt_start_time": moment(start)}
    return {"deliver_policy": "by_start_sequence", "opt_start_seq": start}


def filters_of(config: dict[str, Any]) -> tuple[str, ...]:
    """The patterns a consumer delivers."""
    single = config.get("filter_subject")
    return (single,) if single else tuple(config.get("filter_subjects") or ())


def consumer_options(config: dict[str, Any], stream: str) -> ConsumerOptions:
    """The options a consumer was made with."""
    policy = config.get("priority_policy")
    policy = None if policy in {None, "", "none"} else policy
    acks = config.get("ack_policy") == "explicit"
    pending = min(max(config.get("max_ack_pending", 0), 0) or _MOST_PENDING, _MOST_PENDING)
    filters = filters_of(config)
    return ConsumerOptions(
        durable=config.get("durable_name") or None,
        queue=(config.get("metadata") or {}).get(QUEUE),
        filters=plain_filters(filters),
        lane=lane_of_filter(filters[0]) if filters else None,
        stream=stream,
        max_ack_pending=pending if acks else _UNASKED_PENDING,
        ack_wait=max(seconds(config.get("ack_wait")) or 30.0, 0.05),
        acks=acks,
        start=_start_of(config),
        inactive_threshold=_threshold_of(config),
        description=config.get("description") or "",
        metadata=own_metadata(config),
        replicas=config.get("num_replicas") or None,
        memory=bool(config.get("mem_storage")),
        headers_only=bool(config.get("headers_only")),
        sample=_sample_of(config),
        priority_policy=policy,
        priority_groups=tuple(config.get("priority_groups") or ()) if policy else (),
        priority_timeout=seconds(config.get("priority_timeout")) if policy == "pinned_client" else None,
        deliver_subject=config.get("deliver_subject") or None,
        deliver_group=config.get("deliver_group") or None,
        flow_control=bool(config.get("flow_control")),
        idle_heartbeat=seconds(config.get("idle_heartbeat")),
        rate_limit=config.get("rate_limit_bps") or None,
        replay=config.get("replay_policy") or "instant",
    )


def _threshold_of(config: dict[str, Any]) -> float | None:
    threshold = seconds(config.get("inactive_threshold"))
    if threshold is None or (not config.get("durable_name") and threshold == UNNAMED_THRESHOLD):
        return None
    return max(threshold, 0.1)


def _sample_of(config: dict[str, Any]) -> int | None:
    digits = str(config.get("sample_freq") or "").strip().rstrip("%")
    return min(int(digits), 100) or None if digits.isdigit() else None


def _start_of(config: dict[str, Any]) -> Start:
    policy = config.get("deliver_policy", "all")
    if policy == "by_start_sequence":
        return int(config["opt_start_seq"])
    if policy == "by_start_time":
        return when(config["opt_start_time"]) or "first"
    return _START_WORDS[policy]


def consumer_drift(options: ConsumerOptions, config: dict[str, Any]) -> Differences:
    """Field by field, what we ask and what the server has; where it starts is not compared."""
    differences = consumer_differences(options, consumer_options(config, options.stream or "S"))
    if "acks" in differences:
        differences["acks"] = (options.acks, config.get("ack_policy"))
    if options.acks and config.get("ack_policy") == "explicit" and config.get("max_ack_pending", 0) <= 0:
        differences["max_ack_pending"] = (options.max_ack_pending, config.get("max_ack_pending"))
    if config.get("max_deliver", -1) > 0:
        differences["max_deliver"] = (None, config["max_deliver"])
    if config.get("backoff"):
        differences["backoff"] = ((), tuple(each / _SECOND for each in config["backoff"]))
    return differences


def merged_consumer(
    options: ConsumerOptions, config: dict[str, Any], filters: Sequence[str] | None = None
) -> dict[str, Any]:
    """An existing configuration with ours laid over it; where it starts stays, and what we do not speak of."""
    ours = consumer_config(options, config["name"], filters)
    given = config.get("metadata") or {}
    metadata = {key: value for key, value in given.items() if key != QUEUE}
    if options.metadata:
        metadata = {key: value for key, value in metadata.items() if key.startswith(SERVERS_OWN)}
    merged = {**config, "max_deliver": -1, "metadata": {**metadata, **ours.get("metadata", {})}}
    for field in _CLEARED if options.leaves_groups else (*_CLEARED, *_GROUPS):
        merged.pop(field, None)
    merged.update({field: value for field, value in ours.items() if field in _MERGED and (value or field in merged)})
    if options.replicas is None and "num_replicas" in config:
        merged["num_replicas"] = config["num_replicas"]
    return merged


def consumer_info(answer: dict[str, Any]) -> ConsumerInfo:
    """A server's description of a consumer."""
    stream, config = answer["stream_name"], answer["config"]
    groups = answer.get("priority_groups") or ()
    return ConsumerInfo(
        stream=stream,
        name=answer["name"],
        config=consumer_options(config, stream),
        pending=answer["num_pending"],
        ack_pending=answer["num_ack_pending"],
        redelivered=answer["num_redelivered"],
        waiting=answer["num_waiting"],
        delivered_sequence=answer["delivered"]["stream_seq"],
        ack_floor=answer["ack_floor"]["stream_seq"],
        created=when(answer.get("created")),
        paused_until=when(config.get("pause_until")) if answer.get("paused") else None,
        pinned={each["group"]: each["pinned_client_id"] for each in groups if each.get("pinned_client_id")},
        max_deliver=config["max_deliver"] if config.get("max_deliver", -1) > 0 else None,
    )
