"""Options to the server's JSON and back."""

import dataclasses
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from broker.backends.nats import convert, stream_config
from broker.contracts.drift import fixed_in_consumer
from broker.contracts.features import (
    ConsumerLimits,
    External,
    Placement,
    Republish,
    StreamSource,
    SubjectTransform,
)
from broker.contracts.options import ConsumerOptions, StreamOptions

NAMES = st.from_regex(r"[A-Za-z0-9_-]{1,30}", fullmatch=True)
COUNTS = st.none() | st.integers(1, 2**31 - 1)
SECONDS = st.integers(100, 10_000_000).map(lambda milliseconds: milliseconds / 1000)
WORDS = st.dictionaries(st.text(min_size=1, max_size=10).filter(lambda key: key[0] not in "_g"), st.text(max_size=10))


@st.composite
def sources(draw):
    return StreamSource(
        draw(NAMES),
        filter=draw(st.none() | NAMES),
        start=draw(st.none() | st.integers(1, 2**40)),
        external=draw(st.none() | st.just(External("$JS.hub.API", "deliver"))),
    )


@st.composite
def streams(draw):
    max_age = draw(st.none() | SECONDS)
    return StreamOptions(
        name=draw(NAMES),
        subjects=[f"{number}.{name}" for number, name in enumerate(draw(st.lists(NAMES, min_size=1, max_size=3)))],
        storage=draw(st.sampled_from(["file", "memory"])),
        retention=draw(st.sampled_from(["limits", "workqueue", "interest"])),
        max_msgs=draw(COUNTS),
        max_bytes=draw(COUNTS),
        max_age=max_age,
        max_msgs_per_subject=draw(COUNTS),
        max_msg_size=draw(COUNTS),
        duplicate_window=max_age or draw(SECONDS),
        discard=draw(st.sampled_from(["new", "old"])),
        replicas=draw(st.integers(1, 5)),
        description=draw(st.text(max_size=20)),
        metadata=draw(WORDS),
        max_consumers=draw(COUNTS),
        compression=draw(st.sampled_from(["none", "s2"])),
        allow_direct=draw(st.booleans()),
        deny_delete=draw(st.booleans()),
        atomic=draw(st.booleans()),
        first_seq=draw(COUNTS),
        placement=draw(st.none() | st.just(Placement("C1", ["ssd"]))),
        subject_transform=draw(st.none() | st.just(SubjectTransform("0.*", "0.{{wildcard(1)}}"))),
        republish=draw(st.none() | st.just(Republish("live.>", headers_only=True))),
        sources=draw(st.lists(sources(), max_size=2)),
        consumer_limits=draw(st.none() | st.builds(ConsumerLimits, SECONDS, st.integers(1, 1000))),
    )


STARTS = (
    st.sampled_from(["first", "last", "new", "last_per_subject"])
    | st.integers(1, 2**40)
    | st.integers(86_400, 7_000_000_000).map(lambda moment: datetime.fromtimestamp(moment, UTC))
)


POLICIES = st.sampled_from(
    [
        {},
        {"priority_policy": "overflow", "priority_groups": ["jobs"]},
        {"priority_policy": "pinned_client", "priority_groups": ["jobs"], "priority_timeout": 3.5},
        {"deliver_subject": "push.here", "flow_control": True, "idle_heartbeat": 1.5, "rate_limit": 1000},
    ]
)


@st.composite
def consumers(draw):
    return ConsumerOptions(
        durable=draw(NAMES),
        queue=draw(st.none() | NAMES),
        filters=draw(st.lists(NAMES, max_size=3, unique=True)),
        stream=draw(NAMES),
        max_ack_pending=draw(st.integers(1, 1_000_000)),
        ack_wait=draw(SECONDS),
        start=draw(STARTS),
        description=draw(st.text(max_size=20)),
        metadata=draw(WORDS),
        replicas=draw(st.none() | st.integers(1, 5)),
        memory=draw(st.booleans()),
        headers_only=draw(st.booleans()),
        sample=draw(st.none() | st.integers(1, 100)),
        inactive_threshold=draw(st.none() | SECONDS),
        **draw(POLICIES),
    )


@given(streams())
def test_a_stream_comes_back_as_it_was_declared(options):
    config = stream_config.stream_config(options)
    config["metadata"]["_nats.ver"] = "2.15.1"
    assert stream_config.stream_options(config) == options
    assert stream_config.stream_drift(options, config) == {}


@given(streams(), streams())
def test_drift_is_told_exactly_when_there_is_some(ours, theirs):
    same = stream_config.stream_options(stream_config.stream_config(theirs)) == ours
    fields = set(stream_config.stream_drift(ours, stream_config.stream_config(theirs)))
    if same:
        assert not fields
    assert fields <= {field.name for field in dataclasses.fields(StreamOptions)} - {"name"}
    for field in fields - {"subjects", "metadata"}:
        assert getattr(ours, field) != getattr(theirs, field)


@given(consumers())
def test_a_consumer_comes_back_as_it_was_made(options):
    config = convert.consumer_config(options, options.durable)
    assert convert.consumer_options(config, options.stream) == options
    assert convert.consumer_drift(options, config) == {}


@given(consumers(), consumers())
def test_an_update_ends_the_drift(ours, theirs):
    config = convert.consumer_config(theirs, theirs.durable)
    assume(not fixed_in_consumer(convert.consumer_drift(ours, config)))
    merged = convert.merged_consumer(ours, config)
    assert set(convert.consumer_drift(ours, merged)) <= ({"queue"} if ours.queue is None else set())
    assert merged["deliver_policy"] == config["deliver_policy"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-20T23:33:20.267703722Z", 1795217600267703722),
        ("2026-11-20T23:33:20Z", 1795217600000000000),
        ("2026-11-20T23:33:20.5+00:00", 1795217600500000000),
        ("2026-11-21T01:33:20.000000001+02:00", 1795217600000000001),
    ],
)
def test_no_nanosecond_is_lost(text, expected):
    assert convert.timestamp_ns(text) == expected


def test_times():
    assert convert.when("2026-11-20T23:33:20.267703722Z") == datetime(2026, 11, 20, 23, 33, 20, 267703, UTC)
    assert convert.when("2026-11-20T23:33:20.2677+02:00") == datetime(
        2026, 11, 20, 23, 33, 20, 267700, timezone(timedelta(hours=2))
    )
    assert convert.when("0001-01-01T00:00:00Z") is None
    assert convert.when(None) is None


def test_limits_of_a_foreign_server_are_none():
    config = stream_config.stream_config(StreamOptions("S", ["s"])) | {"max_msgs": -1, "max_bytes": 0, "max_age": 0}
    options = stream_config.stream_options(config)
    assert (options.max_msgs, options.max_bytes, options.max_age) == (None, None, None)


def test_a_consumer_that_says_nothing_of_a_queue_is_taken_by_its_name():
    made = convert.consumer_config(ConsumerOptions(durable="w", filters=("a",)), "w")
    assert convert.consumer_drift(ConsumerOptions(durable="w", queue="w", filters=("a",)), made) == {}
    asked = ConsumerOptions(durable="w", queue="q", filters=("a",))
    assert convert.consumer_drift(asked, made) == {"queue": ("q", None)}


def test_foreign_settings_are_drift():
    options = ConsumerOptions(durable="d", filters=["a"], stream="S")
    config = convert.consumer_config(options, "d")
    config |= {"max_deliver": 5, "backoff": [1_000_000_000], "deliver_subject": "x"}
    assert convert.consumer_drift(options, config) == {
        "max_deliver": (None, 5),
        "backoff": ((), (1.0,)),
        "deliver_subject": (None, "x"),
    }
