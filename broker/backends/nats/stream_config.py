"""``StreamOptions`` as the server's JSON and back. Unlimited is -1 or 0 there, ``None`` here."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from broker.backends.nats import lanes
from broker.backends.nats.convert import SERVERS_OWN, moment, nanoseconds, own_metadata, seconds, when
from broker.contracts.admin import OriginState, StreamInfo, StreamState
from broker.contracts.drift import Differences, stream_differences
from broker.contracts.features import (
    ConsumerLimits,
    External,
    Placement,
    Republish,
    StreamSource,
    SubjectTransform,
)
from broker.contracts.options import StreamOptions
from broker.contracts.schedules import captured_by, pattern_of

_LIMITS: Final = ("max_msgs", "max_bytes", "max_msgs_per_subject", "max_msg_size", "max_consumers")
_AS_THEY_ARE: Final = ("storage", "retention", "discard", "description", "compression")
_FLAGS: Final = {
    "discard_new_per_subject": "discard_new_per_subject",
    "allow_direct": "allow_direct",
    "mirror_direct": "mirror_direct",
    "allow_msg_ttl": "allow_msg_ttl",
    "deny_delete": "deny_delete",
    "deny_purge": "deny_purge",
    "allow_rollup": "allow_rollup_hdrs",
    "sealed": "sealed",
    "atomic": "allow_atomic",
    "schedules": "allow_msg_schedules",
    "counters": "allow_msg_counter",
}
"""Our name -> the server's."""
_OPTIONAL: Final = ("placement", "subject_transform", "republish", "mirror", "sources", "consumer_limits")
_DUPLICATE_WINDOW: Final = 120.0


def stream_config(options: StreamOptions, counts: tuple[int, ...] | None = None) -> dict[str, Any]:
    """What we ask of a stream; ``counts`` are its lanes, generation by generation, when it is not a new one."""
    config: dict[str, Any] = {
        "name": options.name,
        "subjects": list(captured_by(options)),
        "max_age": nanoseconds(options.max_age),
        "duplicate_window": nanoseconds(options.duplicate_window),
        "num_replicas": options.replicas,
        "metadata": dict(options.metadata),
        "subject_delete_marker_ttl": nanoseconds(options.delete_marker_ttl),
    }
    config |= {field: getattr(options, field) for field in _AS_THEY_ARE}
    config |= {theirs: getattr(options, ours) for ours, theirs in _FLAGS.items()}
    for limit in _LIMITS:
        value = getattr(options, limit)
        config[limit] = -1 if value is None else value
    if options.first_seq is not None:
        config["first_seq"] = options.first_seq
    if options.persist_mode != "default":
        config["persist_mode"] = options.persist_mode
    if counts is None:
        counts = () if options.lanes is None else (options.lanes,)
    return config | _parts(options) | lanes.lane_config(options, counts)


def _parts(options: StreamOptions) -> dict[str, Any]:
    """What most streams do not have: left out then, as the server does."""
    parts: dict[str, Any] = {}
    if options.placement is not None:
        parts["placement"] = {"cluster": options.placement.cluster or "", "tags": list(options.placement.tags)}
    if options.subject_transform is not None:
        parts["subject_transform"] = _transform(options.subject_transform)
    if (republish := options.republish) is not None:
        where = {"src": republish.source, "dest": republish.destination}
        parts["republish"] = {**where, "headers_only": republish.headers_only}
    if options.mirror is not None:
        parts["mirror"] = _source(options.mirror)
    if options.sources:
        parts["sources"] = [_source(each) for each in options.sources]
    if (limits := options.consumer_limits) is not None:
        threshold = nanoseconds(limits.inactive_threshold)
        parts["consumer_limits"] = {"inactive_threshold": threshold, "max_ack_pending": limits.max_ack_pending or 0}
    return parts


def _transform(transform: SubjectTransform) -> dict[str, str]:
    return {"src": transform.source, "dest": transform.destination}


def _source(source: StreamSource) -> dict[str, Any]:
    config: dict[str, Any] = {"name": source.name}
    if source.filter is not None:
        config["filter_subject"] = source.filter
    if isinstance(source.start, datetime):
        config["opt_start_time"] = moment(source.start)
    elif source.start is not None:
        config["opt_start_seq"] = source.start
    if source.external is not None:
        config["external"] = {"api": source.external.api, "deliver": source.external.deliver}
    if source.transforms:
        config["subject_transforms"] = [_transform(each) for each in source.transforms]
    return config


def stream_options(config: dict[str, Any]) -> StreamOptions:
    """The options a stream was declared with."""
    values: dict[str, Any] = {field: config[field] for field in ("storage", "retention", "discard")}
    values |= {limit: value if (value := config.get(limit, -1)) > 0 else None for limit in _LIMITS}
    values |= {ours: bool(config.get(theirs)) for ours, theirs in _FLAGS.items()}
    max_age, counts = seconds(config.get("max_age")), lanes.counts_of(config)
    return StreamOptions(
        name=config["name"],
        subjects=[each for each in lanes.plain_subjects(config) if each != pattern_of(config["name"])],
        max_age=max_age,
        duplicate_window=seconds(config.get("duplicate_window"))
        or min(_DUPLICATE_WINDOW, max_age or _DUPLICATE_WINDOW),
        replicas=config["num_replicas"],
        description=config.get("description", ""),
        metadata=own_metadata(config),
        lanes=counts[-1] if counts else None,
        compression=config.get("compression") or "none",
        delete_marker_ttl=seconds(config.get("subject_delete_marker_ttl")),
        first_seq=config.get("first_seq") or None,
        persist_mode=config.get("persist_mode") or "default",
        **_parts_of(config),
        **values,
    )


def _parts_of(config: dict[str, Any]) -> dict[str, Any]:
    placement = config.get("placement")
    transform = None if lanes.counts_of(config) else config.get("subject_transform")
    republish = config.get("republish")
    return {
        "placement": _placement_of(placement) if placement else None,
        "subject_transform": _transform_of(transform) if transform else None,
        "republish": _republish_of(republish) if republish else None,
        "mirror": _source_of(config["mirror"]) if config.get("mirror") else None,
        "sources": tuple(_source_of(each) for each in config.get("sources") or ()),
        "consumer_limits": consumer_limits(config),
    }


def _placement_of(config: dict[str, Any]) -> Placement | None:
    cluster, tags = config.get("cluster") or None, tuple(config.get("tags") or ())
    return Placement(cluster, tags) if cluster or tags else None


def _transform_of(config: dict[str, Any]) -> SubjectTransform:
    return SubjectTransform(config.get("src") or ">", config["dest"])


def _republish_of(config: dict[str, Any]) -> Republish:
    return Republish(config["dest"], config.get("src") or ">", bool(config.get("headers_only")))


def consumer_limits(config: dict[str, Any]) -> ConsumerLimits | None:
    """What consumers of a stream with this configuration may ask for."""
    limits = config.get("consumer_limits")
    return _limits_of(limits) if limits else None


def _limits_of(config: dict[str, Any]) -> ConsumerLimits | None:
    threshold, pending = seconds(config.get("inactive_threshold")), config.get("max_ack_pending") or None
    return ConsumerLimits(threshold, pending) if threshold or pending else None


def _source_of(config: dict[str, Any]) -> StreamSource:
    external = config.get("external")
    return StreamSource(
        config["name"],
        filter=config.get("filter_subject") or None,
        start=config.get("opt_start_seq") or when(config.get("opt_start_time")),
        external=External(external["api"], external.get("deliver") or "") if external else None,
        transforms=tuple(_transform_of(each) for each in config.get("subject_transforms") or ()),
    )


def stream_drift(options: StreamOptions, config: dict[str, Any]) -> Differences:
    """Field by field, what we ask and what the server has."""
    return stream_differences(options, stream_options(config))


def merged_stream(options: StreamOptions, config: dict[str, Any]) -> dict[str, Any]:
    """An existing configuration with ours laid over it; what we do not speak of stays as it is."""
    kept = {key: value for key, value in (config.get("metadata") or {}).items() if key.startswith(SERVERS_OWN)}
    ours = stream_config(options, lanes.new_counts(options, config))
    theirs = {key: value for key, value in config.items() if key not in _OPTIONAL}
    return {**theirs, **ours, "metadata": {**kept, **ours["metadata"]}}


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
            subjects=state.get("num_subjects", 0),
            deleted=state.get("num_deleted", 0),
        ),
        created=when(answer.get("created")),
        mirror=_origin(answer["mirror"]) if answer.get("mirror") else None,
        sources=tuple(_origin(each) for each in answer.get("sources") or ()),
        lane_counts=lanes.counts_of(answer["config"]),
    )


def _origin(state: dict[str, Any]) -> OriginState:
    error = state.get("error")
    idle = state.get("active", -1)
    return OriginState(
        name=state["name"],
        lag=state.get("lag", 0),
        idle=idle / 1e9 if idle >= 0 else None,
        error=str(error.get("description") or "") if error else None,
    )
