"""What facts come to: the cases that no server of ours shows on demand."""

import time

import pytest

from broker.backends.nats.examining import Facts, Greeting, _may
from broker.cli.diagnosis import diagnose
from broker.contracts.errors import Unauthorized


def greeting(**info):
    return Greeting(server="10.0.0.1:4222", info={"version": "2.15.1", "auth_required": True, **info}, encrypted=True)


def found(facts, check):
    return [(each.level, each.says) for each in diagnose(facts) if each.check == check]


@pytest.mark.parametrize(
    ("version", "level"),
    [
        ("2.12.5", "problem"),
        ("2.9.25", "problem"),
        ("2.12.6", "ok"),
        ("2.15.1", "ok"),
        ("3.0.0", "ok"),
        ("dev", "unknown"),
    ],
)
def test_versions_that_can_be_got_around_are_a_problem(version, level):
    [(told, says)] = found(Facts(greetings=[greeting(version=version)]), "version")
    assert told == level
    assert version in says


def test_servers_of_different_versions_are_warned_of():
    facts = Facts(greetings=[greeting(version="2.15.1"), greeting(version="2.14.0")])
    assert ("warning", "the servers differ: 2.14.0, 2.15.1") in found(facts, "version")


@pytest.mark.parametrize(
    ("clock", "error", "level"),
    [
        (0.2, 0.01, "ok"),
        (-0.9, 0.0, "ok"),
        (5.0, 0.1, "warning"),
        (-5.0, 0.1, "warning"),
        (3.0, 2.5, "ok"),
        (90, 1, "problem"),
    ],
)
def test_clocks_apart_by_more_than_can_be_told_are_told(clock, error, level):
    [(told, says)] = found(Facts(greetings=[greeting()], clock=clock, clock_error=error), "clock")
    assert told == level
    assert ("ahead" if clock > 0 else "behind") in says


def test_a_certificate_about_to_expire_is_warned_of():
    old = Greeting(server="h:1", info={"version": "2.15.1", "tls_required": True}, encrypted=True)
    old.expires = time.time() + 3 * 86400
    assert [level for level, _ in found(Facts(greetings=[old]), "tls")] == ["warning"]
    old.expires = time.time() + 300 * 86400
    assert [level for level, _ in found(Facts(greetings=[old]), "tls")] == ["ok"]


def test_in_the_clear_over_a_network_is_a_problem_and_on_this_machine_a_warning():
    for server, level in (("10.0.0.1:4222", "problem"), ("127.0.0.1:4222", "warning"), ("localhost:4222", "warning")):
        plain = Greeting(server=server, info={"version": "2.15.1"})
        assert [told for told, _ in found(Facts(greetings=[plain]), "tls")] == [level]


def test_tls_that_need_not_be_is_warned_of():
    assert [level for level, _ in found(Facts(greetings=[greeting(tls_available=True)]), "tls")] == ["warning"]


def test_without_a_login_nothing_is_said_of_what_comes_after_it():
    told = diagnose(Facts(greetings=[greeting()], refused=Unauthorized("no")))
    assert told[-1].check == "login"
    assert {each.check for each in told} == {"version", "tls", "login"}


def test_a_stream_without_a_leader_is_a_problem():
    stream = {"config": {"name": "S", "num_replicas": 3}, "cluster": {"replicas": []}}
    facts = Facts(greetings=[greeting(cluster="c")], streams=[stream])
    assert [level for level, _ in found(facts, "replicas")] == ["problem"]


@pytest.mark.parametrize(
    ("permissions", "verb", "subject", "may"),
    [
        (None, "publish", "a.b", True),
        ({}, "publish", "a.b", True),
        ({"publish": {"allow": ["a.*"]}}, "publish", "a.b", True),
        ({"publish": {"allow": ["a.*"]}}, "subscribe", "a.b", True),
        ({"publish": {"allow": ["a.*"]}}, "publish", "a.b.c", False),
        ({"publish": {"allow": ["a.>"], "deny": ["a.b"]}}, "publish", "a.b", False),
        ({"publish": {"allow": [">"], "deny": ["a.>"]}}, "publish", "a.b", False),
        ({"publish": {"allow": []}}, "publish", "a", False),
        ({"subscribe": {"allow": ["_INBOX_a.>"]}}, "subscribe", "_INBOX_a.>", True),
        ({"subscribe": {"allow": ["_INBOX_a.*"]}}, "subscribe", "_INBOX_a.>", False),
        ({"subscribe": {"allow": ["a.> queue"]}}, "subscribe", "a.b", False),
    ],
)
def test_what_permissions_allow(permissions, verb, subject, may):
    assert _may(permissions, verb, subject) is may


def test_what_is_in_use_has_a_unit():
    limits = {"max_storage": 4096, "max_memory": -1, "max_streams": 16, "max_consumers": -1}
    account = {"storage": 1024, "memory": 0, "streams": 5, "consumers": 7, "limits": limits}
    assert [says for _, says in found(Facts(greetings=[greeting()], account=account), "limits")] == [
        "disk: 1024 of 4096 bytes in use",
        "memory: 0 bytes in use; this account has no limit of its own",
        "streams: 5 of 16 in use",
        "consumers: 7 in use; this account has no limit of its own",
    ]
