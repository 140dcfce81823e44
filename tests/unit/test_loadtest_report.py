"""The statistics and the table, from canned numbers."""

import dataclasses
import json
import math
import sys

import pytest

from loadtest import __main__ as command
from loadtest import report
from loadtest.bench import order, scaled
from loadtest.compare import Spread, compare
from loadtest.counterpart import Tally, answers
from loadtest.machine import Machine
from loadtest.runs import Run, run_peer
from loadtest.workloads import WORKLOADS, Entrant, Workload

THEIRS = Entrant(peer="natspy", variant="send", shown="nc.send")
OURS = Entrant(peer="gamebroker", variant="send", shown="send", bar=1.5)
SHOWN_ONLY = Entrant(peer="gamebroker", variant="send-async", shown="await send")
WORKLOAD = Workload(name="sending", count=1000, baseline=THEIRS, entrants=(OURS, SHOWN_ONLY))
MACHINE = Machine(
    cpu="Some CPU",
    cores=2,
    load=0.25,
    kernel="Linux 6.1",
    python="CPython 3.11.7",
    gamebroker="0.1.0",
    nats_py="2.16.0",
    uvloop="0.23.0",
    nats_server="2.15.1",
)


def run(entrant, turn, seconds, *, void="", cpu=0.1):
    return Run(
        workload="sending",
        peer=entrant.peer,
        variant=entrant.variant,
        round=turn,
        count=1000,
        seconds=seconds,
        cpu_seconds=cpu,
        void=void,
    )


def rounds(entrant, *seconds):
    return [run(entrant, turn, each) for turn, each in enumerate(seconds, start=1)]


def row_of(runs, entrant=OURS):
    return next(row for row in compare(WORKLOAD, runs) if row.ours == entrant.shown)


def test_a_spread_is_median_lowest_and_highest():
    assert Spread.of([5.0, 1.0, 3.0]) == Spread(3.0, 1.0, 5.0)
    assert Spread.of([4.0, 1.0, 2.0, 3.0]) == Spread(2.5, 1.0, 4.0)
    assert Spread.of([]) is None


def test_the_ratio_is_that_of_the_medians_and_the_range_that_of_the_rounds():
    # Rates of ours 1000, 2000, 4000; of theirs 1000, 500, 2000.
    row = row_of([*rounds(OURS, 1.0, 0.5, 0.25), *rounds(THEIRS, 1.0, 2.0, 0.5)])
    assert row.rate == Spread(2000.0, 1000.0, 4000.0)
    assert row.baseline_rate == Spread(1000.0, 500.0, 2000.0)
    assert row.ratio == 2.0
    assert (row.round_low, row.round_high) == (1.0, 4.0)
    assert (row.verdict, row.void) == ("met", 0)


def test_processor_time_is_per_message():
    row = row_of([run(OURS, 1, 1.0, cpu=0.004), run(THEIRS, 1, 1.0, cpu=0.01)])
    assert row.cpu is not None
    assert row.baseline_cpu is not None
    assert math.isclose(row.cpu.median, 4.0)
    assert math.isclose(row.baseline_cpu.median, 10.0)


@pytest.mark.parametrize(("seconds", "verdict"), [(2 / 3, "met"), (0.67, "missed")])
def test_a_bar_is_met_or_missed(seconds, verdict):
    assert row_of([*rounds(OURS, seconds), *rounds(THEIRS, 1.0)]).verdict == verdict


def test_a_row_without_a_bar_has_no_verdict():
    assert row_of([*rounds(SHOWN_ONLY, 9.0), *rounds(THEIRS, 1.0)], SHOWN_ONLY).verdict == "-"


def test_the_warm_up_does_not_count():
    row = row_of([run(OURS, 0, 0.001), run(THEIRS, 0, 1.0), *rounds(OURS, 1.0), *rounds(THEIRS, 1.0)])
    assert row.ratio == 1.0


def test_a_void_run_is_never_averaged_and_is_shown():
    broken = run(OURS, 2, 0.001, void="received 998 of 1,000")
    runs = [*rounds(OURS, 1.0), broken, *rounds(THEIRS, 1.0, 1.0)]
    row = row_of(runs)
    assert (row.ratio, row.round_high, row.void) == (1.0, 1.0, 1)
    table = report.markdown(MACHINE, [row], runs, rounds=2, scale=1.0)
    assert "missed (1 void)" in table
    assert "void: round 2, sending, gamebroker send: received 998 of 1,000" in table
    assert report.progress(broken, 2).endswith("VOID: received 998 of 1,000")


def test_without_a_valid_pair_there_is_no_ratio():
    runs = [run(OURS, 1, 0.0, void="no result in 90 s"), *rounds(THEIRS, 1.0)]
    row = row_of(runs)
    assert (row.ratio, row.rate, row.verdict) == (None, None, "void")
    said = report.verdict([row], runs)
    assert "bars met: 0 of 1" in said
    assert "not measured: sending (send)" in said
    assert "void: 1 of 2 runs" in said


def test_a_void_run_on_one_side_leaves_its_round_out_of_the_range_only():
    runs = [*rounds(OURS, 1.0, 0.1), run(THEIRS, 1, 1.0), run(THEIRS, 2, 5.0, void="child died")]
    row = row_of(runs)
    assert (row.round_low, row.round_high) == (1.0, 1.0)
    assert row.void == 1


def test_the_table_says_machine_versions_numbers_and_verdict():
    runs = [*rounds(OURS, 1.0, 0.5, 0.25), *rounds(THEIRS, 1.0, 2.0, 0.5), *rounds(SHOWN_ONLY, 1.0, 1.0, 1.0)]
    table = report.markdown(MACHINE, compare(WORKLOAD, runs), runs, rounds=3, scale=0.5)
    lines = table.splitlines()
    assert lines[0] == "Some CPU, 2 cores, load 0.25 before the first run, Linux 6.1"
    assert "gamebroker 0.1.0, nats-py 2.16.0, uvloop 0.23.0, CPython 3.11.7, nats-server 2.15.1" in lines
    assert (
        "| sending | send | nc.send | 2,000 (1,000..4,000) | 1,000 (500..2,000) | **2.00** (1.00..4.00) | 1.50 | met "
        "| 100.0 / 100.0 |"
    ) in lines
    assert "| sending | await send |" in table
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    assert lines[-1] == "bars met: 1 of 1; no run void"
    assert "3 rounds (fewer than 5: an indication, not a measurement), count scale 0.5." in table


def test_a_missed_bar_is_said_aloud():
    runs = [*rounds(OURS, 1.0), *rounds(THEIRS, 1.0)]
    assert "MISSED: sending (send)" in report.verdict([row_of(runs)], runs)


def test_the_json_holds_every_run_and_can_be_read_back():
    runs = [*rounds(OURS, 0.5), *rounds(THEIRS, 1.0)]
    told = json.loads(json.dumps(report.as_json(MACHINE, compare(WORKLOAD, runs), runs, rounds=1, scale=1.0)))
    assert told["machine"] == dataclasses.asdict(MACHINE)
    assert [each["rate"] for each in told["runs"]] == [2000.0, 1000.0]
    assert told["rows"][0]["ratio"] == 2.0
    assert told["rows"][0]["verdict"] == "met"
    assert told["rows"][1]["verdict"] == "void"


def test_the_order_is_reversed_every_second_round():
    assert order(WORKLOAD, 0) == (THEIRS, OURS, SHOWN_ONLY)
    assert order(WORKLOAD, 1) == (SHOWN_ONLY, OURS, THEIRS)
    assert order(WORKLOAD, 2) == order(WORKLOAD, 0)


def test_the_count_is_scaled_but_never_to_nothing():
    assert scaled(WORKLOAD, 2.0) == 2000
    assert scaled(WORKLOAD, 0.00001) == 100


def test_the_bars_are_those_of_the_issue():
    lowest = {each.name: [entrant.bar for entrant in each.entrants] for each in WORKLOADS}
    assert lowest == {
        "publish": [0.85, 0.85],
        "subscribe": [0.85, 0.85],
        "request64": [1.0],
        "append256": [1.4, 1.4],
        "consume+ack": [2.0, 2.0],
        "append1": [None],
    }


@pytest.mark.parametrize("cut", range(1, 40))
def test_messages_are_counted_however_the_stream_is_cut(cut):
    stream = b"MSG a.b 1 4\r\nxxxx\r\n" * 7 + b"PING\r\n" + b"MSG a.b 1 0\r\n\r\n"
    tally = Tally()
    for start in range(0, len(stream), cut):
        tally.feed(stream[start : start + cut])
    assert tally.count == 8


@pytest.mark.parametrize("cut", range(1, 40))
def test_the_echo_answers_every_whole_request(cut):
    stream = b"MSG a 1 _R.1 5\r\nhello\r\nPING\r\nMSG a 1 _R.2 0\r\n\r\n"
    sent, rest = [], b""
    for start in range(0, len(stream), cut):
        replies, rest = answers(rest + stream[start : start + cut])
        sent += replies
    assert b"".join(sent) == b"PUB _R.1 5\r\nhello\r\nPONG\r\nPUB _R.2 0\r\n\r\n"
    assert not rest


async def outcome(tmp_path, monkeypatch, code, *, limit=10.0):
    (tmp_path / "stand_in.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return await run_peer(OURS, WORKLOAD, url="-", count=1000, turn=1, limit=limit, module="stand_in")


async def test_a_run_that_says_its_result_counts(tmp_path, monkeypatch):
    line = {"seconds": 0.5, "cpu_seconds": 0.25, "problems": []}
    done = await outcome(tmp_path, monkeypatch, f"import json; print(json.dumps({line}))")
    assert (done.rate, done.cpu_seconds, done.void) == (2000.0, 0.25, "")


async def test_a_run_with_problems_is_void(tmp_path, monkeypatch):
    line = {"seconds": 0.5, "cpu_seconds": 0.25, "problems": ["stored 9 of 10", "unacked 1"]}
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


@pytest.mark.parametrize("arguments", [["--rounds", "0"], ["--count-scale", "0"], ["--workload", "nonsense"]])
def test_arguments_out_of_range_are_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        command.main(arguments)
    assert "error:" in capsys.readouterr().err


def test_here_is_a_machine():
    machine = Machine.here()
    assert machine.cores >= 1
    assert machine.python.endswith(".".join(map(str, sys.version_info[:3])))
