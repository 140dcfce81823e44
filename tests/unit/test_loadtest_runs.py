"""One run of the benchmark: what is timed and counted, and when it is void."""

import pytest

from loadtest.counterpart import Tally, answers
from loadtest.latency import Latency, Schedule, since_due, stamped
from loadtest.runs import run_peer
from tests.unit.test_loadtest_report import OURS, WORKLOAD


def test_a_latency_leaves_out_the_first_tenth():
    took = [9_000_000] * 10 + [1000 * each for each in range(1, 91)]
    assert Latency.of(took, 0.5) == Latency(p50=46.0, p99=90.0, p999=90.0, worst=90.0, lag_ms=0.5)
    assert Latency.of([], 0.5).p50 == 0.0


def test_a_message_carries_the_time_it_was_due_not_the_time_it_was_sent():
    schedule = Schedule("room", rooms=2, count=4, size=64)

    class Started:
        def start(self, period_ns):
            return 10 * period_ns

    planned = list(schedule.plan(Started()))
    assert [subject for subject, _ in planned] == ["room.0", "room.1", "room.0", "room.1"]
    assert planned[1][1] - planned[0][1] == 1_000_000_000 // 60
    body = schedule.body(planned[0][1])
    assert len(body) == 64
    assert schedule.lags[0] == pytest.approx(since_due(body), abs=10**9)
    assert since_due(stamped(0, 8)) > 10**6


@pytest.mark.parametrize("cut", range(1, 40))
def test_messages_are_counted_however_the_stream_is_cut(cut):
    stream = b"MSG a.b 1 4\r\nxxxx\r\n" * 7 + b"PING\r\n" + b"MSG a.b 1 0\r\n\r\n"
    tally = Tally()
    for start in range(0, len(stream), cut):
        tally.feed(stream[start : start + cut])
    assert tally.count == 8


@pytest.mark.parametrize("cut", range(1, 60))
def test_the_echo_answers_every_whole_request_without_its_headers(cut):
    stream = b"MSG a 1 _R.1 5\r\nhello\r\nPING\r\nMSG a 1 _R.2 0\r\n\r\n"
    stream += b"HMSG a 1 _R.3 17 19\r\nNATS/1.0\r\nA:b\r\n\r\nhi\r\n"
    sent, rest = [], b""
    for start in range(0, len(stream), cut):
        replies, rest = answers(rest + stream[start : start + cut])
        sent += replies
    assert b"".join(sent) == b"PUB _R.1 5\r\nhello\r\nPONG\r\nPUB _R.2 0\r\n\r\nPUB _R.3 2\r\nhi\r\n"
    assert not rest


async def outcome(tmp_path, monkeypatch, code, *, limit=10.0):
    (tmp_path / "stand_in.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return await run_peer(OURS, WORKLOAD, url="-", count=1000, turn=1, limit=limit, module="stand_in")


async def test_a_run_that_says_its_result_counts(tmp_path, monkeypatch):
    line = {"seconds": 0.5, "cpu_seconds": 0.25, "latency": None, "problems": []}
    done = await outcome(tmp_path, monkeypatch, f"import json; print(json.dumps({line}))")
    assert (done.rate, done.cpu_seconds, done.void) == (2000.0, 0.25, "")


async def test_a_run_with_problems_is_void(tmp_path, monkeypatch):
    line = {"seconds": 0.5, "cpu_seconds": 0.25, "latency": None, "problems": ["stored 9 of 10", "unacked 1"]}
    done = await outcome(tmp_path, monkeypatch, f"import json; print(json.dumps({line}))")
    assert done.void == "stored 9 of 10; unacked 1"


async def test_a_run_that_died_is_void_and_says_why(tmp_path, monkeypatch):
    done = await outcome(tmp_path, monkeypatch, "raise SystemExit('no stream for you')")
    assert done.void == "exit code 1; no stream for you"
    assert done.rate == 0.0


async def test_a_run_that_says_nothing_is_void(tmp_path, monkeypatch):
    assert (await outcome(tmp_path, monkeypatch, "pass")).void == "exit code 0"


async def test_a_run_that_hangs_is_killed_and_void(tmp_path, monkeypatch):
    done = await outcome(tmp_path, monkeypatch, "import time; time.sleep(60)", limit=0.3)
    assert done.void == "no result in 0.3 s"
