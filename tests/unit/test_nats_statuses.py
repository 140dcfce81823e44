"""What a status instead of a message means, and what is asked for next."""

import pytest

from broker.backends.nats.pulls import Bytes, Pulls
from broker.backends.nats.statuses import Verdict, allowed_batch, allowed_seconds, event_of, judge

CASES = [
    (100, "Idle Heartbeat", Verdict.ALIVE, None),
    (404, "No Messages", Verdict.OVER, None),
    (408, "Request Timeout", Verdict.OVER, None),
    (400, "Bad Request", Verdict.REFUSED, None),
    (423, "Nats-Wrong-Pin-Id", Verdict.LATER, "pin_lost"),
    (503, "", Verdict.CHECK, "no_responders"),
    (409, "Consumer Deleted", Verdict.GONE, None),
    (409, "Stream Deleted", Verdict.CHECK, None),
    (409, "Leadership Change", Verdict.MOVED, "leader_changed"),
    (409, "Server Shutdown", Verdict.LATER, "server_shutdown"),
    (409, "Batch Completed", Verdict.OVER, None),
    (409, "Exceeded MaxWaiting", Verdict.LATER, "limits_exceeded"),
    (409, "Exceeded MaxRequestBatch of 7", Verdict.SMALLER, "limits_exceeded"),
    (409, "Exceeded MaxRequestExpires of 1m30s", Verdict.SHORTER, "limits_exceeded"),
    (409, "Exceeded MaxRequestMaxBytes of 600", Verdict.FEWER_BYTES, "limits_exceeded"),
    (409, "Message Size Exceeds MaxBytes", Verdict.TOO_LARGE, "limits_exceeded"),
    (409, "Consumer is push based", Verdict.REFUSED, None),
    (409, "Something New", Verdict.LATER, None),
    (499, "Something Else", Verdict.LATER, None),
]


@pytest.mark.parametrize(("status", "text", "verdict", "event"), CASES, ids=[f"{each[0]} {each[1]}" for each in CASES])
def test_every_status_has_a_verdict_and_some_are_told(status, text, verdict, event):
    assert judge(status, text) is verdict
    assert event_of(status, text) == event


def test_limits_are_read_out_of_the_words():
    assert allowed_batch("Exceeded MaxRequestBatch of 7") == 7
    assert allowed_batch("Exceeded MaxRequestMaxBytes of 600") == 600
    assert allowed_seconds("Exceeded MaxRequestExpires of 1m30s") == 90.0


def test_a_status_of_a_request_that_is_over_already_is_known_as_such():
    pulls = Pulls()
    token = pulls.open(5, 10.0)
    assert pulls.over(token, 5)
    assert not pulls.over(token, 5)
    assert pulls.owed == 0


class TestBytes:
    def test_without_a_limit_any_number_is_asked_for(self):
        limits = Bytes()
        assert not limits.counted
        assert (limits.fit(10, 0), limits.most()) == (10, 0)

    def test_the_consumers_limit_is_the_upper_one(self):
        limits = Bytes()
        limits.allowed = 50
        assert limits.counted
        assert limits.most() == 50
        limits.wanted = 100
        assert limits.most() == 50
        limits.wanted = 20
        assert limits.most() == 20

    def test_one_that_is_too_large_for_any_request_comes_alone(self):
        limits = Bytes()
        limits.wanted = 100
        assert (limits.fit(10, 3), limits.most()) == (10, 100)
        assert limits.refused(3), "nothing came of it"
        assert (limits.fit(10, 3), limits.most()) == (1, 0)
        assert (limits.fit(10, 4), limits.most()) == (10, 100)

    def test_one_that_did_not_fit_in_beside_others_waits_for_the_next_request(self):
        limits = Bytes()
        limits.wanted = 100
        assert (limits.fit(10, 3), limits.most()) == (10, 100)
        assert not limits.refused(5)
        assert (limits.fit(10, 5), limits.most()) == (10, 100)
