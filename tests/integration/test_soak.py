"""The soak end to end on a real server, a few seconds of it; and that its verdict, ledgers and plan tell the truth."""

import json
import random
from dataclasses import replace
from types import SimpleNamespace

import pytest

from broker.contracts.status import Stats, Status
from loadtest.soak import __main__ as command
from loadtest.soak import faults
from loadtest.soak.ledger import Frames, Marks, Settlements
from loadtest.soak.verdict import MIB, Findings, objections
from loadtest.soak.vitals import Growth, Sample, growth


@pytest.mark.nats
@pytest.mark.fault
@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_few_seconds_of_it_pass(tmp_path, capsys, link):
    # Warm-up and windows are seconds here: memory is still settling, and is the long run's business.
    given = ["--duration", "5", "--rate", "600", "--every", "1.5", "--most-growth", "48", "--link", link]
    code = command.main([*given, "--out", str(tmp_path)])
    [page] = tmp_path.glob("soak-*.md")
    [kept] = tmp_path.glob("soak-*.json")
    told = json.loads(kept.read_text())
    assert told["objections"] == []
    assert code == 0
    assert "**passed**" in page.read_text()
    assert page.read_text() in capsys.readouterr().out
    found = told["findings"]
    assert found["faults"][faults.CUT_ALL] >= 1
    assert found["reconnects"] >= 2
    assert found["stored"] == found["held"] == found["handled"] > 150
    assert found["published"] == found["arrived"] + found["lost"] + found["dropped_outbound"]
    assert len(told["samples"]) >= 4
    assert told["machine"]["nats_server"]


FINE = Findings(
    seconds=100,
    rate=10,
    sent=1000,
    growth=Growth(rss=0, tasks=0, fds=0, objects=0),
    left_tasks=0,
    left_fds=0,
    published=870,
    arrived=800,
    repeated=0,
    dropped_outbound=50,
    dropped_inbound=0,
    gaps=70,
    unexplained=0,
    late=0,
    asked={"answered": 30},
    stored=100,
    held=100,
    handled=100,
    missing=0,
    again=3,
    unknown=0,
    reconnects=4,
    faults={faults.CUT_ALL: 2},
)


def test_a_run_in_which_everything_held_passes():
    assert objections(FINE, most_growth=5) == []
    assert FINE.lost == 20


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sent": 900}, "only 900 messages"),
        ({"reconnects": 0}, "proves nothing"),
        ({"faults": {}}, "proves nothing"),
        ({"growth": Growth(rss=5 * MIB, tasks=0, fds=0, objects=0)}, "memory grew by 5.0 MiB"),
        ({"growth": Growth(rss=0, tasks=6, fds=0, objects=0)}, "6 more tasks"),
        ({"growth": Growth(rss=0, tasks=0, fds=6, objects=0)}, "6 more file descriptors"),
        ({"left_tasks": 1}, "1 tasks left"),
        ({"left_fds": 1}, "1 file descriptors left"),
        ({"repeated": 1}, "more than once"),
        ({"unexplained": 1}, "missing without"),
        ({"dropped_outbound": 71}, "counted as dropped that arrived"),
        ({"missing": 1}, "1 stored messages were never handled"),
        ({"handled": 99}, "1 stored messages were not handled"),
        ({"held": 101}, "101 messages in the stream for 100 keys"),
        ({"asked": {"RequestTimeout": 30}}, "no request was answered"),
        ({"errors": {"enqueue: ValueError: x": 2}}, "2 times: enqueue: ValueError: x"),
    ],
)
def test_each_promise_that_did_not_hold_is_told(change, words):
    [told] = objections(replace(FINE, **change), most_growth=5)
    assert words in told


def a_pair():
    room, worker = (SimpleNamespace(stats=Stats(), status=Status.CONNECTED) for _ in range(2))
    return room, worker, Frames(100, 2, 32, room, worker)


def test_a_gap_needs_a_break_or_a_counted_drop_since_the_frame_before_it():
    room, worker, frames = a_pair()

    def missing_but_the_last(count):
        """Send so many to each subject; of the first one only the last arrives."""
        *_, last, _other = [frames.next()[1] for _ in range(2 * count)]
        frames.note(last)
        return frames.gaps, frames.unexplained

    assert missing_but_the_last(1) == (0, 0)
    assert missing_but_the_last(2) == (1, 1)
    room.stats.reconnects += 1
    assert missing_but_the_last(2) == (2, 1)
    assert missing_but_the_last(3) == (4, 3)
    worker.stats.reconnects += 1
    assert missing_but_the_last(2) == (5, 3)
    room.stats.dropped_outbound += 1
    assert missing_but_the_last(2) == (6, 3)
    worker.stats.dropped_inbound += 1
    assert missing_but_the_last(2) == (7, 3)
    assert missing_but_the_last(2) == (8, 4)
    worker.status = Status.RECONNECTING
    assert missing_but_the_last(2) == (9, 4)  # the first words on the new connection, before it is told
    worker.status, worker.stats.reconnects = Status.CONNECTED, worker.stats.reconnects + 1
    assert missing_but_the_last(2) == (10, 5)


def test_what_comes_behind_a_newer_one_is_late_and_what_comes_twice_a_repeat():
    _, _, frames = a_pair()
    bodies = [frames.next()[1] for _ in range(6)]
    for number in (0, 4, 2, 2):
        frames.note(bodies[number])
    assert (frames.late, frames.arrived.repeats, frames.arrived.seen) == (2, 1, 3)
    assert {len(body) for body in bodies} == {32}


def test_marks_count_without_growing():
    marks = Marks(4)
    for number in (1, 1, 3):
        marks.mark(number)
    for _ in range(300):
        marks.mark(2)
    assert [marks[each] for each in range(4)] == [0, 2, 255, 1]
    assert (marks.seen, marks.repeats) == (3, 255)


def test_a_stored_message_that_nobody_handled_is_missing():
    settlements = Settlements(10)
    settlements.begun = 3
    for number in range(3):
        settlements.stored.mark(number)
    settlements.handled.mark(1)
    assert settlements.missing == 2


def test_growth_is_between_the_medians_of_two_windows():
    samples = [Sample(at, 100 + at, 10, 20, 1000 - at, 0) for at in range(1, 101)]
    samples[95] = replace(samples[95], rss=10_000, tasks=99)  # a peak is not growth
    assert growth(samples, warm_up=10, window=11) == Growth(rss=80, tasks=0, fds=0, objects=-80)


def test_the_plan_breaks_something_soon_and_leaves_time_to_recover():
    short = faults.planned(6, 2, random.Random(1))
    assert short[0] == faults.Fault(1, faults.CUT_ALL, 0.0)
    assert all(each.at + each.seconds <= 5 for each in short)
    long = faults.planned(600, 5, random.Random(1))
    assert long == faults.planned(600, 5, random.Random(1))
    assert {each.kind for each in long} == {
        faults.CUT_ONE,
        faults.CUT_ALL,
        faults.STALL,
        faults.FREEZE,
        faults.LONG_FREEZE,
        faults.RESTART,
    }
    assert [each.at for each in long] == sorted(each.at for each in long)
    assert {each.kind for each in long if each.at < 60} >= {faults.LONG_FREEZE, faults.RESTART}
