"""The capacity search: its rules without a server, and the smallest real run."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.capacity import __main__ as command
from loadtest.capacity import report
from loadtest.capacity.histogram import Histogram
from loadtest.capacity.limits import HOP_LIMIT, LAG_LIMIT, Step, Times
from loadtest.capacity.search import Search
from loadtest.capacity.step import Setting
from loadtest.capacity.usage import cpu_seconds
from loadtest.machine import Machine


def searched(search: Search, capacity: int) -> list[int]:
    tried = []
    while (rooms := search.next()) is not None:
        tried.append(rooms)
        search.tell(rooms, held=rooms <= capacity)
    return tried


def step(rooms: int = 10, **changes: object) -> Step:
    fine = Times(p50=1.0, p99=3.0, max=9.0)
    given = {"frame_hop": fine, "command_hop": fine, "cpu": {"server": 0.2, "room": 0.31, "generator": 0.4}}
    return Step(**({"rooms": rooms, "players": 10} | given | changes))


def test_the_search_doubles_then_halves():
    search = Search(8, 512)
    assert searched(search, 43) == [8, 16, 32, 64, 48, 40, 44, 42]
    assert (search.held, search.refused) == (42, 44)


@given(st.integers(1, 600), st.integers(1, 64), st.integers(0, 700))
def test_the_search_ends_close_to_what_is_held_and_tries_nothing_twice(most, first, capacity):
    search = Search(first, most)
    tried = searched(search, capacity)
    assert len(tried) == len(set(tried)) <= 25
    assert max(tried) <= most
    assert search.held <= capacity
    if capacity >= most:
        assert (search.held, search.refused) == (most, None)
    else:
        assert search.refused is not None
        assert search.refused > capacity
        assert search.refused - search.held <= max(1, search.held * 0.06)


def test_quantiles_are_those_of_what_was_counted_in_between():
    lapse = Histogram.between({"3": 5, "7": 1}, {"3": 5, "7": 100, "90": 1, "2000": 0})
    assert lapse.counts == {7: 99, 90: 1}
    assert (lapse.total, lapse.quantile(0.5), lapse.quantile(0.99), lapse.quantile(1.0)) == (100, 0.8, 0.8, 9.1)
    assert lapse.max == 9.1
    assert Histogram.of([lapse, Histogram({7: 1, 2000: 1})]).counts == {7: 100, 90: 1, 2000: 1}
    assert (Histogram({}).quantile(0.99), Histogram({}).max) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "held"),
        ({"frame_hop": Times(p50=1.0, p99=HOP_LIMIT, max=12.0)}, "frame hop p99 10.0 ms"),
        ({"command_hop": Times(p50=1.0, p99=11.5, max=12.0)}, "command hop p99 11.5 ms"),
        ({"skipped": 3}, "3 ticks skipped"),
        ({"lost": 2}, "2 frames lost"),
        ({"skipped": 3, "lost": 2}, "3 ticks skipped, 2 frames lost"),
    ],
)
def test_every_limit_counts(changes, verdict):
    assert step(**changes).verdict == verdict
    assert step(**changes).held is (verdict == "held")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"lag": LAG_LIMIT + 0.1}, "the generator's own turns were 2.1 ms late at p99, more than 2"),
        ({"generator_skipped": 4}, "the generator skipped 4 of its own turns"),
        ({"problem": "room ended with -9"}, "room ended with -9"),
    ],
)
def test_a_late_generator_measures_itself_and_the_step_is_void(changes, reason):
    late = step(skipped=7, **changes)
    assert late.void == reason
    assert not late.held
    assert not late.kept
    assert late.verdict == f"void: {reason}"


def test_a_void_step_that_kept_every_limit_leads_upwards_and_is_not_held():
    late = step(16, lag=2.5)
    assert (late.kept, late.held) == (True, False)
    assert late.verdict.endswith("more than 2; every limit was kept")
    assert report.bend([step(8), late, step(32, skipped=1)]) == (
        "8 rooms held; up to 16 every limit was kept, but the generator was late, so that these steps are void; "
        "it bends at 32: 1 ticks skipped."
    )


def test_the_bend_says_which_limit_was_met():
    held, broken, void = step(8), step(16, skipped=3), step(16, lag=9.0, skipped=1)
    assert report.bend([held]) == "8 rooms held; more were not tried, so the curve does not bend here."
    assert report.bend([held, void, broken]) == "8 rooms held; it bends at 16: 3 ticks skipped."
    assert "the generator was the limit, not the room or the server" in report.bend([held, void, void])
    assert report.bend([broken]).startswith("no number of rooms was held")


def test_the_report_shows_every_try_in_order_and_hides_none():
    machine, setting = Machine.here(), Setting(generators=2)
    steps = [step(16, skipped=3), step(8), step(32, problem="room ended with 1", cpu={})]
    page = report.markdown(machine, setting, steps)
    rows = [line for line in page.splitlines() if line.startswith("| ")][2:]
    assert [row.split("|")[1].strip() for row in rows] == ["8", "16", "32"]
    assert "| 20% | 31% | 40% |" in rows[0]
    assert "room ended with 1" in rows[2]
    assert f"{machine.cores} cores" in page
    assert "2 generator processes" in page
    told = json.loads(json.dumps(report.as_json(machine, setting, steps)))
    assert told["held"] == 8
    assert [each["rooms"] for each in told["steps"]] == [16, 8, 32]


def test_processor_time_of_this_process_grows_and_of_nobody_is_unknown():
    used = cpu_seconds(os.getpid())
    if used is not None:  # a system without /proc does not tell
        while cpu_seconds(os.getpid()) == used:
            pass
    assert cpu_seconds(2**22 + 1) is None


@pytest.mark.nats
@pytest.mark.timeout(120)
def test_the_smallest_run_end_to_end(tmp_path, capsys):
    written = tmp_path / "kept" / "capacity.json"
    options = [
        "--rooms",
        "2",
        "--max-rooms",
        "2",
        "--step-seconds",
        "1",
        "--generators",
        "2",
        "--attempts",
        "1",
        "--json",
    ]
    code = command.main([*options, str(written)])
    told, shown = json.loads(written.read_text()), capsys.readouterr().out
    first = told["steps"][0]
    # A busy machine may well make the step void or break a limit; what was measured must be there all the same.
    assert first["problem"] == ""
    assert (first["rooms"], first["players"], first["lost"]) == (2, 10, 0)
    assert first["frames"] > 20
    assert first["sent"] > 20
    assert first["commands"] > 0
    assert 0 < first["frame_hop"]["p50"] <= first["frame_hop"]["p99"] <= first["frame_hop"]["max"]
    assert first["command_hop"]["p99"] > 0
    assert code == (0 if told["held"] else 1)
    assert told["machine"]["nats_server"]
    assert f"| 2 | {first['frame_hop']['p50']:.1f} /" in shown
    assert told["bend"] in shown
    assert told["bend"] in written.with_suffix(".md").read_text()
