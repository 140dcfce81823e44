import ssl
from datetime import datetime
from pathlib import Path

import pytest

from broker import ConsumeOptions, ConsumerOptions, InvalidOption, InvalidSubject, StreamOptions
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
        ("durability", "fsync"),
        ("lanes", 0),
        ("lanes", 1025),
    ],
)
def test_a_stream_option_out_of_range_is_named(option, value):
    with pytest.raises(InvalidOption) as caught:
        StreamOptions(**{"name": "S", "subjects": ["a"], option: value})
    assert caught.value.option == option
    assert option in str(caught.value)


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
    ],
)
def test_a_consumer_option_out_of_range_is_named(option, value):
    with pytest.raises(InvalidOption) as caught:
        ConsumerOptions(**{"filters": ["a"], option: value})
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
