"""Chaos runs end to end on a real server: a few seconds of it hold, and every mutation is noticed."""

import json
import sys

import msgspec
import pytest

from broker.cli.main import main as gamebroker
from loadtest.chaos import __main__ as command
from loadtest.chaos.catalogue import KINDS, kinds_for
from loadtest.chaos.checker import BROKEN
from loadtest.chaos.plan import Plan

pytestmark = [pytest.mark.nats, pytest.mark.fault, pytest.mark.slow, pytest.mark.timeout(600)]

BUSY = ("--slack", "20", "--seed", "1")
"""What is judged here is the harness, on a machine with other things to do."""


def run(tmp_path, *given):
    code = command.main([*BUSY, "--directory", str(tmp_path), "--report", str(tmp_path / "report.json"), *given])
    return code, json.loads((tmp_path / "report.json").read_text())


def numbers(report):
    return {finding["number"] for finding in report["verdict"]["findings"] if finding["held"] is False}


@pytest.mark.timeout(600)
def test_a_minute_of_everything_that_can_happen_to_one_server(tmp_path, capsys):
    """How much is settled in it is this machine's business, and the command's own bar; what must hold is not."""
    code, report = run(tmp_path, "--mode", "quick", "--rate", "200")
    figures = report["verdict"]["figures"]
    assert report["verdict"]["void"] == []
    assert numbers(report) == set()
    assert code == 0
    assert sum(figures["faults"].values()) == 45
    assert set(figures["faults"]) == {name for name in kinds_for("nats") if not KINDS[name].needs}
    assert figures["effects"] > 2000
    assert figures["redelivered"] > 0
    assert (figures["lost"], figures["twice"], figures["half"], figures["ghosts"], figures["total"]) == (0, 0, 0, 0, 0)
    assert capsys.readouterr().out.startswith("seed 1: 45 faults in 60 s at 200 settlements/s\n   1 ")
    assert Plan.load(tmp_path).least == 0
    assert report["command"].startswith("gamebroker chaos --mode quick --seed 1 --seconds 60 --rate 200 --faults 45 ")
    assert report["machine"]["nats_server"]
    assert sum(report["timeline"]["stored"]) * report["timeline"]["step"] == pytest.approx(
        figures["confirmed"], rel=0.01
    )
    page = (tmp_path / "report.html").read_text()
    assert page.count("<rect") == 45
    assert "died at mid_batch" in page
    assert "PASSED: " in page


def test_what_a_server_loses_of_what_it_had_confirmed_is_a_delay_for_senders_with_an_outbox(tmp_path, capsys):
    given = ("--send", "outbox", "--seconds", "5", "--rate", "150", "--faults", "2")
    code, report = run(tmp_path, *given, "--scenario", "stream-deleted", "bit-flip")
    figures = report["verdict"]["figures"]
    assert report["verdict"]["void"] == []
    assert numbers(report) == set()
    assert code == 0
    assert figures["faults"] == {"bit-flip": 1, "stream-deleted": 1}
    assert figures["again"] > 0
    assert (figures["lost"], figures["twice"], figures["total"]) == (0, 0, 0)
    assert "(SHORTENED: 5 s of 60)" in capsys.readouterr().out
    assert " --send outbox " in report["command"]


def test_a_few_seconds_of_it_hold_on_postgresql_too(tmp_path):
    scenarios = ("db-restarted", "db-locked", "kill-server", "worker-kill:after_commit", "malformed", "key-conflict")
    given = ("--seconds", "8", "--rate", "200", "--faults", "7", "--db", "postgres")
    code, report = run(tmp_path, *given, "--scenario", *scenarios)
    figures = report["verdict"]["figures"]
    assert report["verdict"]["void"] == []
    assert numbers(report) == set()
    assert code == 0
    assert figures["faults"]["db-restarted"] == 2
    assert figures["conflicts"] == 1
    assert figures["effects"] > 500
    assert " --db postgres " in report["command"]


@pytest.mark.parametrize(
    ("mutation", "given", "broken"),
    [
        ("naive", ("--faults", "1", "--scenario", "worker-kill:after_commit"), "I2"),
        ("ackfirst", ("--faults", "1", "--scenario", "worker-kill:before_commit"), "I1"),
        ("drop-row", ("--faults", "0"), "I3"),
        ("dup-row", ("--faults", "0"), "I2"),
        ("flip-amount", ("--faults", "0"), "I3"),
    ],
)
def test_every_mutation_is_noticed(tmp_path, mutation, given, broken):
    seconds = "2" if "--scenario" in given else "1"
    scenario = () if "--scenario" in given else ("--scenario", "kill-server")
    code, report = run(tmp_path, "--seconds", seconds, "--rate", "300", "--mutate", mutation, *given, *scenario)
    assert code == BROKEN
    assert broken in numbers(report)
    assert report["verdict"]["void"] == []


def test_a_scenario_that_does_not_exist_is_refused_before_anything_begins(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        run(tmp_path, "--scenario", "earthquake")
    assert exit_.value.code == 2
    assert "no scenario 'earthquake'" in capsys.readouterr().err
    assert not (tmp_path / "plan.json").exists()


def test_the_command_finds_it(capsys, monkeypatch):
    with pytest.raises(SystemExit) as exit_:
        gamebroker(["chaos", "--scenario", "earthquake"])
    assert exit_.value.code == 2
    assert "gamebroker chaos: error: no scenario 'earthquake'" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "loadtest.chaos.__main__", None)
    assert gamebroker(["chaos"]) == 1
    assert "in a checkout of gamebroker, by `make chaos`" in capsys.readouterr().err


def test_a_checker_that_cannot_judge_is_no_verdict(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command.Director, "run", _nothing)
    code = command.main([*BUSY, "--directory", str(tmp_path), "--seconds", "1", "--scenario", "malformed"])
    assert code == command.NOT_RUN
    assert "the checker could not judge" in capsys.readouterr().err


async def _nothing(_):
    pass


def test_a_run_that_could_not_begin_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("broker.server.node.find_nats_server", _no_binary)
    code = command.main([*BUSY, "--directory", str(tmp_path), "--seconds", "1", "--scenario", "malformed"])
    assert code == command.NOT_RUN
    assert "the run could not be brought to its end: there is no server" in capsys.readouterr().err
    assert msgspec.json.decode((tmp_path / "plan.json").read_bytes())["seed"] == 1


def _no_binary(_):
    raise OSError("there is no server")
