"""Options as the server's JSON and back. Unlimited is -1 or 0 there, ``None`` here; durations are nanoseconds there."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from broker.backends.nats import lanes
from broker.contracts.admin import ConsumerInfo, StreamInfo, StreamState
from broker.contracts.lanes import lane_of_filter
from broker.contracts.options import ConsumerOptions, Start, StreamOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

QUEUE: Final = "gamebroker.queue"
"""Metadata key that keeps a consumer's queue group."""
_SERVERS_OWN: Final = "_nats"
_SECOND: Final = 1_000_000_000
_STARTS: Final = {"first": "all", "last": "last", "new": "new", "last_per_subject": "last_per_subject"}
_START_WORDS: Final[dict[str, Start]] = {
    "all": "first",
    "last": "last",
    "new": "new",
    "last_per_subject": "last_per_subject",
}
_LIMITS: Final = ("max_msgs", "max_bytes", "max_msgs_per_subject", "max_msg_size")


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


# -- streams ----------------------------------------------------------------------------------------------------------


def stream_config(options: StreamOptions, counts: tuple[int, ...] | None = None) -> dict[str, Any]:
    """What we ask of a stream; ``counts`` are its lanes, generation by generation, when it is not a new one."""
    config: dict[str, Any] = {
        "name": options.name,
        "subjects": list(options.subjects),
        "storage": options.storage,
        "retention": options.retention,
        "max_age": nanoseconds(options.max_age),
        "duplicate_window": nanoseconds(options.duplicate_window),
        "discard": options.discard,
        "num_replicas": options.replicas,
        "description": options.description,
        "metadata": dict(options.metadata),
        "max_consumers": -1,
        "allow_direct": True,
        "allow_msg_ttl": True,
    }
    for limit in _LIMITS:
        value = getattr(options, limit)
        config[limit] = -1 if value is None else value
    if counts is None:
        counts = () if options.lanes is None else (options.lanes,)
    return {**config, **lanes.lane_config(options, counts)}


def stream_options(config: dict[str, Any]) -> StreamOptions:
    """The options a stream was declared with."""
    limits = {limit: value if (value := config.get(limit, -1)) > 0 else None for limit in _LIMITS}
    return StreamOptions(
        name=config["name"],
        subjects=lanes.plain_subjects(config) or (">",),
        storage=config["storage"],
        retention=config["retention"],
        max_age=seconds(config.get("max_age")),
        duplicate_window=seconds(config.get("duplicate_window")) or 120.0,
        discard=config["discard"],
        replicas=config["num_replicas"],
        description=config.get("description", ""),
        metadata=own_metadata(config),
        lanes=counts[-1] if (counts := lanes.counts_of(config)) else None,
        **limits,
    )


def own_metadata(config: dict[str, Any]) -> dict[str, str]:
    """Metadata without what belongs to the server or to us."""
    given = config.get("metadata") or {}
    ours = {QUEUE, lanes.LANES}
    return {key: value for key, value in given.items() if not key.startswith(_SERVERS_OWN) and key not in ours}


def stream_drift(options: StreamOptions, config: dict[str, Any]) -> dict[str, tuple[object, object]]:
    """Field by field, what we ask and what the server has."""
    ours, theirs = stream_config(options), config
    has = stream_options(config)
    differences: dict[str, tuple[object, object]] = {}
    subjects = lanes.plain_subjects(theirs)
    if set(options.subjects) != set(subjects):
        differences["subjects"] = (tuple(options.subjects), subjects)
    for field in ("storage", "retention", "discard", *_LIMITS, "description"):
        if getattr(options, field) != getattr(has, field):
            differences[field] = (getattr(options, field), getattr(has, field))
    for field in ("max_age", "duplicate_window"):
        if ours[field] != theirs.get(field, 0):
            differences[field] = (getattr(options, field), getattr(has, field))
    for field in ("replicas", "lanes"):
        if getattr(options, field) != getattr(has, field):
            differences[field] = (getattr(options, field), getattr(has, field))
    if dict(options.metadata) != dict(has.metadata):
        differences["metadata"] = (dict(options.metadata), dict(has.metadata))
    return differences


def merged_stream(options: StreamOptions, config: dict[str, Any]) -> dict[str, Any]:
    """An existing configuration with ours laid over it; what we do not speak of stays as it is."""
    kept = {key: value for key, value in (config.get("metadata") or {}).items() if key.startswith(_SERVERS_OWN)}
    ours = stream_config(options, lanes.new_counts(options, config))
    return {
        **config,
        **ours,
        "metadata": {**kept, **ours["metadata"]},
        "max_consumers": config.get("max_consumers", -1),
    }


def stream_info(answer: dict[str, Any]) -> StreamInfo:
    """A server's description of a stream."""
    state = answer["state"]
    return StreamInfo(
        config=stream_options(answer["config"]),
        state=StreamState(
            messages=state["messages"],
            bytes=state["bytes"],
            first_sequence=state["first_seq"] if state["messages"] else state["last_seq"] + 1,
            last_sequence=state["last_seq"],
            consumers=state.get("consumer_count", 0),
        ),
        created=when(answer.get("created")),
        lane_counts=lanes.counts_of(answer["config"]),
    )


# -- consumers --------------------------------------------------------------------------------------------------------


def consumer_config(options: ConsumerOptions, name: str, filters: Sequence[str] | None = None) -> dict[str, Any]:
    """What we ask of a consumer; ``filters`` as things are stored, where that is not as they are sent.

    ``max_deliver`` stays unlimited: attempts are counted by the facade.
    """
    config: dict[str, Any] = {
        "name": name,
        "ack_policy": "explicit" if options.acks else "none",
        "replay_policy": "instant",
        "max_deliver": -1,
        "num_replicas": 0,
        **_start(options.start),
    }
    if options.acks:
        config["ack_wait"] = nanoseconds(options.ack_wait)
        config["max_ack_pending"] = options.max_ack_pending
    if options.durable is None and options.queue is None:
        config["inactive_threshold"] = nanoseconds(options.inactive_threshold)
    else:
        config["durable_name"] = name
    filters = options.filters if filters is None else filters
    if len(filters) == 1:
        config["filter_subject"] = filters[0]
    elif filters:
        config["filter_subjects"] = list(filters)
    if options.priority_policy is not None:
        config["priority_groups"] = list(options.priority_groups)
        config["priority_policy"] = options.priority_policy
        config["priority_timeout"] = nanoseconds(options.priority_timeout)
    if options.queue is not None:
        config["metadata"] = {QUEUE: options.queue}
    return config


def _start(start: Start) -> dict[str, Any]:
    if isinstance(start, str):
        return {"deliver_policy": _STARTS[start]}
    if isinstance(start, datetime):
        moment = start.astimezone(UTC).isoformat().replace("+00:00", "Z")
        return {"deliver_policy": "by_start_time", "opt_start_time": moment}
    return {"deliver_policy": "by_start_sequence", "opt_start_seq": start}


def filters_of(config: dict[str, Any]) -> tuple[str, ...]:
    """The patterns a consumer delivers."""
    single = config.get("filter_subject")
    return (single,) if single else tuple(config.get("filter_subjects") or ())


def consumer_options(config: dict[str, Any], stream: str) -> ConsumerOptions:
    """The options a consumer was made with."""
    filters = filters_of(config)
    return ConsumerOptions(
        durable=config.get("durable_name") or None,
        queue=(config.get("metadata") or {}).get(QUEUE),
        filters=lanes.plain_filters(filters),
        stream=stream,
        lane=lane_of_filter(filters[0]) if filters else None,
        max_ack_pending=min(max(config.get("max_ack_pending", 0), 0) or 1_000_000, 1_000_000),
        ack_wait=max(seconds(config.get("ack_wait")) or 30.0, 0.05),
        acks=config.get("ack_policy") == "explicit",
        start=_start_of(config),
        inactive_threshold=max(seconds(config.get("inactive_threshold")) or 30.0, 0.1),
        priority_groups=tuple(config.get("priority_groups") or ()),
        priority_policy="pinned_client" if config.get("priority_policy") == "pinned_client" else None,
        priority_timeout=seconds(config.get("priority_timeout")),
    )


def _start_of(config: dict[str, Any]) -> Start:
    policy = config.get("deliver_policy", "all")
    if policy == "by_start_sequence":
        return int(config["opt_start_seq"])
    if policy == "by_start_time":
        return when(config["opt_start_time"]) or "first"
    return _START_WORDS[policy]


def consumer_drift(options: ConsumerOptions, config: dict[str, Any]) -> dict[str, tuple[object, object]]:
    """Field by field, what we ask and what the server has; where it starts is not compared."""
    has = consumer_options(config, options.stream or "")
    differences: dict[str, tuple[object, object]] = {}
    if set(options.filters) != set(has.filters):
        differences["filters"] = (tuple(options.filters), tuple(has.filters))
    if options.acks != has.acks:
        differences["acks"] = (options.acks, config.get("ack_policy"))
    elif options.acks:
        if options.max_ack_pending != config.get("max_ack_pending"):
            differences["max_ack_pending"] = (options.max_ack_pending, config.get("max_ack_pending"))
        if nanoseconds(options.ack_wait) != config.get("ack_wait"):
            differences["ack_wait"] = (options.ack_wait, has.ack_wait)
    for field in ("queue", "lane", "priority_policy", "priority_timeout"):
        if getattr(options, field) != getattr(has, field):
            differences[field] = (getattr(options, field), getattr(has, field))
    return differences | _foreign_settings(config)


def _foreign_settings(config: dict[str, Any]) -> dict[str, tuple[object, object]]:
    """What others may have given a consumer and we never ask for."""
    differences: dict[str, tuple[object, object]] = {}
    if config.get("max_deliver", -1) > 0:
        differences["max_deliver"] = (None, config["max_deliver"])
    if config.get("backoff"):
        differences["backoff"] = ((), tuple(each / _SECOND for each in config["backoff"]))
    if config.get("deliver_subject"):
        differences["deliver_subject"] = (None, config["deliver_subject"])
    return differences


UNCHANGEABLE: Final = frozenset({"acks", "deliver_subject"})
"""Consumer fields the server never changes: the consumer has to be deleted and made anew."""


def merged_consumer(
    options: ConsumerOptions, config: dict[str, Any], filters: Sequence[str] | None = None
) -> dict[str, Any]:
    """An existing configuration with ours laid over it; where it starts stays."""
    ours = consumer_config(options, config["name"], filters)
    metadata = {key: value for key, value in (config.get("metadata") or {}).items() if key != QUEUE}
    merged = {**config, "max_deliver": -1, "metadata": {**metadata, **ours.get("metadata", {})}}
    for field in ("filter_subject", "filter_subjects", "backoff"):
        merged.pop(field, None)
    pinning = ("priority_groups", "priority_policy", "priority_timeout")
    for field in ("ack_wait", "max_ack_pending", "filter_subject", "filter_subjects", *pinning):
        if field in ours:
            merged[field] = ours[field]
    return merged


def consumer_info(answer: dict[str, Any]) -> ConsumerInfo:
    """A server's description of a consumer."""
    stream = answer["stream_name"]
    return ConsumerInfo(
        stream=stream,
        name=answer["name"],
        config=consumer_options(answer["config"], stream),
        pending=answer["num_pending"],
        ack_pending=answer["num_ack_pending"],
        redelivered=answer["num_redelivered"],
        waiting=answer["num_waiting"],
        delivered_sequence=answer["delivered"]["stream_seq"],
        ack_floor=answer["ack_floor"]["stream_seq"],
        created=when(answer.get("created")),
    )
