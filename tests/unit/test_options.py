import ssl
from datetime import datetime
from pathlib import Path

import pytest

from broker import (
    ConsumeOptions,
    ConsumerLimits,
    ConsumerOptions,
    External,
    InvalidOption,
    InvalidSubject,
    Placement,
    Republish,
    StreamOptions,
    StreamSource,
    SubjectTransform,
)
from broker.contracts.options import ConnectOptions, in_range


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("subjects", "battle.>"),
        ("subjects", []),
        ("subjects", ["a.>", "a.b"]),
        ("storage", "disk"),
        ("retention", "forever"),
        ("discard", "none"),
        ("replicas", 0),
        ("replicas", 6),
        ("replicas", 1.0),
        ("max_msgs", 0),
        ("max_bytes", -1),
        ("max_age", 0),
        ("duplicate_window", 0),
        ("max_msg_size", True),
        ("durability", "always"),
        ("max_msg_size", 2**31),
        ("max_consumers", 0),
        ("first_seq", 0),
        ("compression", "zip"),
        ("persist_mode", "sync"),
        ("allow_direct", 1),
        ("allow_msg_ttl", "yes"),
        ("delete_marker_ttl", 0.5),
        ("placement", "C1"),
        ("subject_transform", ("a", "b")),
        ("republish", "live.>"),
        ("mirror", "S2"),
        ("mirror", StreamSource("S2")),
        ("sources", "S2"),
        ("sources", ["S2"]),
        ("consumer_limits", {}),
        ("discard_new_per_subject", True),
        ("counters", True),
        ("schedules", True),
        ("description", "x" * 4097),
        ("description", None),
        ("metadata", {"a": 1}),
        ("metadata", {"a": "x" * 140_000}),
        ("atomic", "no"),
        ("lanes", 0),
        ("lanes", 1025),
    ],
)
def test_a_stream_option_out_of_range_is_named(option, value):
    with pytest.raises(InvalidOption) as caught:
        StreamOptions(**{"name": "S", "subjects": ["a"], option: value})
    assert caught.value.option == option
    assert option in str(caught.value)


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("discard_new_per_subject", {"discard_new_per_subject": True, "max_msgs_per_subject": 1, "discard": "old"}),
        ("counters", {"counters": True, "discard": "old", "allow_msg_ttl": True}),
        ("counters", {"counters": True, "discard": "old", "schedules": True, "allow_msg_ttl": False}),
        ("counters", {"counters": True, "discard": "old", "retention": "workqueue"}),
        ("schedules", {"schedules": True, "discard": "old", "allow_rollup": False}),
        ("schedules", {"schedules": True, "discard": "old", "retention": "interest"}),
        ("schedules", {"schedules": True, "discard": "old", "sources": [StreamSource("S2")]}),
        ("allow_rollup", {"allow_rollup": True, "deny_purge": True}),
        ("sealed", {"sealed": True, "discard": "old"}),
        ("sealed", {"sealed": True, "max_age": 600.0}),
        ("atomic", {"atomic": True, "persist_mode": "async"}),
        ("atomic", {"atomic": True, "subjects": [], "mirror": StreamSource("S2")}),
        ("persist_mode", {"persist_mode": "async", "storage": "memory"}),
        ("persist_mode", {"persist_mode": "async", "replicas": 3}),
        ("delete_marker_ttl", {"delete_marker_ttl": 5.0, "allow_msg_ttl": False}),
        ("delete_marker_ttl", {"delete_marker_ttl": 5.0, "allow_rollup": False}),
        ("first_seq", {"first_seq": 5, "subjects": [], "mirror": StreamSource("S2")}),
        ("sources", {"subjects": [], "mirror": StreamSource("S2"), "sources": [StreamSource("S3")]}),
        ("republish", {"republish": Republish("a")}),
    ],
)
def test_stream_options_that_contradict_are_named(option, values):
    with pytest.raises(InvalidOption) as caught:
        StreamOptions(**{"name": "S", "subjects": ["a"]} | values)
    assert caught.value.option == option
    assert option in str(caught.value)


def test_what_is_left_open_becomes_what_fits():
    plain = StreamOptions("S", ["a"])
    assert (plain.atomic, plain.allow_msg_ttl, plain.allow_rollup, plain.mirror_direct) == (True, True, False, False)
    mirror = StreamOptions("S", mirror=StreamSource("S2"))
    assert (mirror.atomic, mirror.mirror_direct, mirror.subjects) == (False, True, ())
    assert StreamOptions("S", ["a"], persist_mode="async").atomic is False
    assert StreamOptions("S", ["a"], counters=True, discard="old").allow_msg_ttl is False
    assert StreamOptions("S", ["a"], schedules=True, discard="old").allow_rollup is True
    assert StreamOptions("S", ["a"], delete_marker_ttl=5.0).allow_rollup is True
    sealed = StreamOptions("S", ["a"], sealed=True)
    assert (sealed.deny_delete, sealed.deny_purge) == (True, True)
    assert StreamOptions("S", ["a"], first_seq=1) == plain


@pytest.mark.parametrize(
    ("make", "option"),
    [
        (lambda: StreamSource("S", filter="a", transforms=[SubjectTransform("a", "b")]), "filter"),
        (lambda: StreamSource("S", start=0), "start"),
        (lambda: StreamSource("S", start=datetime(2026, 1, 1)), "start"),  # noqa: DTZ001 - a time without a zone is the point
        (lambda: StreamSource("S", domain="hub", external=External("$JS.hub.API")), "domain"),
        (lambda: StreamSource("S", external="$JS.hub.API"), "external"),
        (
            lambda: StreamSource("S", transforms=[SubjectTransform("a.*", "b"), SubjectTransform("a.b", "c")]),
            "transforms",
        ),
        (Placement, "placement"),
        (lambda: Placement(tags="ssd"), "tags"),
        (lambda: Placement("C", [""]), "placement"),
        (ConsumerLimits, "consumer_limits"),
        (lambda: ConsumerLimits(max_ack_pending=0), "max_ack_pending"),
        (lambda: ConsumerLimits(inactive_threshold=0), "inactive_threshold"),
        (lambda: Republish("live.>", headers_only=1), "headers_only"),
    ],
)
def test_a_part_of_a_stream_is_checked_where_it_is_made(make, option):
    with pytest.raises(InvalidOption) as caught:
        make()
    assert caught.value.option == option


@pytest.mark.parametrize(
    "make",
    [
        lambda: SubjectTransform("a..b", "c"),
        lambda: SubjectTransform("a", ""),
        lambda: SubjectTransform("a", ".b"),
        lambda: SubjectTransform("a", "b..c"),
        lambda: SubjectTransform("a", "x" * 513),
        lambda: Republish("live.\n"),
        lambda: External("a.*"),
        lambda: StreamSource("a.b"),
        lambda: StreamSource("S", filter="a..b"),
        lambda: Placement("a b"),
    ],
)
def test_names_and_subjects_of_a_part_are_checked(make):
    with pytest.raises(InvalidSubject):
        make()


def test_a_domain_is_the_external_it_stands_for():
    assert StreamSource("S", domain="hub") == StreamSource("S", external=External("$JS.hub.API"))


def test_a_key_is_not_remembered_longer_than_its_message():
    with pytest.raises(InvalidOption, match="duplicate_window"):
        StreamOptions("S", ["a"], max_age=60)
    assert StreamOptions("S", ["a"], max_age=60, duplicate_window=60).max_age == 60


def test_equal_declarations_are_equal_whatever_sequence_type_was_used():
    assert StreamOptions("S", ["a", "b"]) == StreamOptions("S", ("a", "b"))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("max_ack_pending", 0),
        ("ack_wait", 0),
        ("ensure", "maybe"),
        ("start", 0),
        ("start", "middle"),
        ("start", datetime(2026, 1, 1)),  # noqa: DTZ001 - a time without a zone is the point
        ("acks", "yes"),
        ("memory", 1),
        ("headers_only", None),
        ("inactive_threshold", 0),
        ("description", 5),
        ("metadata", "owner"),
        ("metadata", {"gamebroker.queue": "mine"}),
        ("replicas", 6),
        ("sample", 0),
        ("sample", 101),
        ("priority_groups", ["jobs"]),
        ("priority_groups", "jobs"),
        ("priority_groups", ["a b"]),
        ("priority_timeout", 5.0),
        ("deliver_group", "readers"),
        ("flow_control", True),
        ("idle_heartbeat", 1.0),
        ("rate_limit", 1000),
    ],
)
def test_a_consumer_option_out_of_range_is_named(option, value):
    with pytest.raises(InvalidOption) as caught:
        ConsumerOptions(**{"filters": ["a"], option: value})
    assert caught.value.option == option


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("priority_policy", {"priority_policy": "first", "priority_groups": ["jobs"]}),
        ("priority_groups", {"priority_policy": "overflow"}),
        ("priority_policy", {"priority_policy": "overflow", "priority_groups": ["jobs"], "deliver_subject": "x"}),
        ("priority_timeout", {"priority_policy": "overflow", "priority_groups": ["jobs"], "priority_timeout": 5.0}),
        ("priority_timeout", {"priority_policy": "pinned_client", "priority_groups": ["j"], "priority_timeout": 0}),
        ("flow_control", {"deliver_subject": "x", "flow_control": True}),
        ("idle_heartbeat", {"deliver_subject": "x", "idle_heartbeat": 0.05}),
        ("rate_limit", {"deliver_subject": "x", "rate_limit": -1}),
    ],
)
def test_consumer_options_that_contradict_are_named(option, values):
    with pytest.raises(InvalidOption) as caught:
        ConsumerOptions(filters=["a"], **values)
    assert caught.value.option == option


def test_binding_needs_a_name():
    with pytest.raises(InvalidOption, match="bind"):
        ConsumerOptions(filters=["a"], ensure="bind")


def test_a_durable_that_would_break_api_subjects_is_refused():
    with pytest.raises(InvalidSubject):
        ConsumerOptions(filters=["a"], durable="a.b")


@pytest.mark.parametrize(
    ("option", "value"),
    [("concurrency", 0), ("max_deliver", 0), ("backoff", 5), ("backoff", "1"), ("backoff", [1, -1])],
)
def test_a_consume_option_out_of_range_is_named(option, value):
    with pytest.raises(InvalidOption) as caught:
        ConsumeOptions(**{option: value})
    assert caught.value.option == option


def test_secrets_stay_out_of_the_repr():
    url = "nats://ann:secret1@h"
    for options in ({"user": "ann", "password": "secret2"}, {"token": "secret3"}, {"creds": "secret4"}):
        assert "secret" not in repr(ConnectOptions(url=url, **options))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("echo", "no"),
        ("tls_first", 3),
        ("name", 5),
        ("user", 5),
        ("password", b"p"),
        ("token", 5),
        ("creds", 5),
        ("tls", True),
        ("inbox_prefix", "a.*"),
        ("inbox_prefix", "a b"),
        ("inbox_prefix", "a."),
        ("inbox_prefix", 5),
    ],
)
def test_a_connect_option_of_another_kind_is_named(option, value):
    with pytest.raises(InvalidOption, match=option) as caught:
        ConnectOptions(url="nats://a", **{option: value})
    assert caught.value.option == option


@pytest.mark.parametrize(
    "options",
    [
        {"user": "ann"},
        {"user": "ann", "password": "secret", "token": "secret"},
        {"user": "ann", "password": "secret", "creds": "secret"},
        {"token": "secret", "creds": "secret"},
    ],
)
def test_two_ways_to_say_who_we_are_contradict(options):
    with pytest.raises(InvalidOption) as caught:
        ConnectOptions(url="nats://a", **options)
    assert "secret" not in repr(caught.value)


def test_credentials_may_be_a_path_and_tls_a_context():
    context = ssl.create_default_context()
    options = ConnectOptions(url="nats://a", creds=Path("ann.creds"), tls=context)
    assert (options.creds, options.tls) == ("ann.creds", context)


def test_a_large_bound_is_written_whole():
    with pytest.raises(InvalidOption, match=r"of at least 1,795,233,473\Z"):
        in_range("epoch", 1, 1_795_233_473, whole=True)
    with pytest.raises(InvalidOption, match=r"from 0\.05 to 946,080,000\Z"):
        in_range("ack_wait", float("inf"), 0.05)
    with pytest.raises(InvalidOption, match=r"from 1 to 4,611,686,018,427,387,904\Z"):
        in_range("start", 2**62 + 1, 1, whole=True)
