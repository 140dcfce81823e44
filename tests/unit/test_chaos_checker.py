"""The checker of a chaos run on histories and books made by hand: a good run passes, and each way to go wrong shows."""

import sqlite3
from contextlib import closing

import msgspec
import pytest

from loadtest.chaos.books import BOOKS
from loadtest.chaos.histories import Event, Fate, History, Op, digest_of, events, last_events
from loadtest.chaos.mutations import Mutation
from loadtest.chaos.page import page
from loadtest.chaos.plan import Fault, Limits
from loadtest.chaos.report import Report, judged_in
from loadtest.chaos.series import Series
from loadtest.chaos.settlements import Settlement, body_of, read, settlement_of
from loadtest.machine import Machine
from tests.chaos_runs import FAULTS, PLAN, Run


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


def broken(verdict):
    return {finding.number for finding in verdict.broken}


def test_a_good_run_passes(run, capsys):
    code, verdict = run.fine().check()
    assert [finding.told for finding in verdict.broken] == []
    assert verdict.void == ()
    assert code == 0
    assert "PASSED: 20 settlements under 2 faults, 0 lost, 0 twice" in capsys.readouterr().out
    assert verdict.figures.faults == {"kill-server": 1, "worker-kill": 1}
    assert verdict.figures.repeats == 1
    assert verdict.figures.recovery["kill-server"].max == pytest.approx(0.1, abs=0.11)
    assert [finding.number for finding in verdict.findings] == [f"I{n}" for n in range(1, 14)]
    assert {finding.number for finding in verdict.findings if finding.held is None} == {"I6", "I8"}


def test_one_that_was_confirmed_and_never_applied_is_lost(run):
    run.fine().sent("gone")
    code, verdict = run.check()
    assert (code, broken(verdict), verdict.figures.lost) == (1, {"I1"}, 1)
    assert "1 confirmed and lost (gone " in verdict.sentence


def test_one_without_an_answer_may_be_there_or_not(run):
    run.fine().sent("there", outcome=Op.UNKNOWN)
    run.settled("there")
    run.sent("not there", outcome=Op.UNKNOWN)
    run.sent("never heard of again", outcome=None)
    code, verdict = run.check()
    assert (code, verdict.figures.unknown) == (0, 2)


def test_one_that_was_refused_must_not_be_there(run):
    run.fine().sent("refused", outcome=Op.FAIL)
    run.settled("refused")
    code, verdict = run.check()
    assert (code, broken(verdict), verdict.figures.ghosts) == (1, {"I4"}, 1)


def test_refused_first_and_taken_later_is_no_ghost(run):
    run.fine().sent("again", outcome=Op.FAIL)
    run.sent("again", outcome=Op.OK)
    run.settled("again")
    assert run.check()[0] == 0


def test_one_that_nobody_sent_is_a_ghost(run):
    run.fine().settled("from nowhere")
    assert broken(run.check()[1]) == {"I4"}


def test_a_dead_letter_that_can_be_seen_is_not_lost(run):
    run.fine().sent("buried")
    run.letter("buried", "max_deliver")
    code, verdict = run.check()
    assert (code, verdict.figures.letters, verdict.figures.unmeant) == (0, 1, 1)


def test_what_was_meant_for_the_dead_letters_must_be_there(run):
    run.fine().sent("poison-1", fate=Fate.LETTER)
    assert broken(run.check()[1]) == {"I7"}


def test_what_is_left_unsettled_is_told(run):
    run.fine().left(3)
    assert broken(run.check()[1]) == {"I7"}


def test_a_conflict_ends_as_a_dead_letter(run):
    run.fine().sent("k1", fate=Fate.LETTER, digest="another")
    run.letter("k1", "conflict", digest="another")
    assert run.check()[0] == 0


def test_the_wrong_one_of_two_payloads_is_noticed(run):
    run.fine().sent("k20", at=0.5)
    run.book({"k20": b"another"})
    run.sent("k20", fate=Fate.LETTER, digest=digest_of(b"another"))
    assert broken(run.check()[1]) == {"I1", "I5"}


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("DELETE FROM posting WHERE id = 7", {"I3"}),
        ("DELETE FROM posting WHERE key = 'k5'", {"I1", "I3"}),
        ("DELETE FROM gamebroker_inbox WHERE key = 'k5'", {"I1", "I4"}),
        ("INSERT INTO posting SELECT id + 100, key, account, amount FROM posting WHERE id = 7", {"I2", "I3"}),
        ("INSERT INTO posting SELECT id + 100, key, account, amount FROM posting WHERE key = 'k5'", {"I2", "I3"}),
        ("UPDATE posting SET amount = -amount WHERE id = 7", {"I3"}),
        ("UPDATE posting SET amount = 2 * amount WHERE key = 'k5'", {"I3"}),
        ("UPDATE posting SET account = 'player-none' WHERE id = 7", {"I3"}),
        ("UPDATE balance SET amount = amount + 1 WHERE account = 'mint'", {"I3"}),
        ("DELETE FROM outbox WHERE key = 'k5'", {"I3"}),
        ("INSERT INTO outbox (key, body) VALUES ('k5', 'again')", {"I3"}),
    ],
)
def test_a_ledger_that_was_tampered_with_is_noticed(run, statement, expected):
    run.fine().tamper(statement)
    assert broken(run.check()[1]) == expected


def test_a_ledger_that_can_be_changed_is_noticed(run):
    run.fine()
    with closing(sqlite3.connect(run.directory / BOOKS)) as db:
        db.execute("DROP TRIGGER posting_no_update")
    assert broken(run.check()[1]) == {"I3"}


@pytest.mark.parametrize("mutation", [Mutation.NAIVE, Mutation.DROP_ROW, Mutation.DUP_ROW, Mutation.FLIP_AMOUNT])
def test_each_mutation_of_the_books_is_noticed(tmp_path, mutation):
    code, verdict = Run(tmp_path, mutation=mutation).fine().check()
    assert code == 1
    assert broken(verdict) & {"I2", "I3"}


def test_a_planned_fault_that_did_not_fire_makes_the_run_void(run, capsys):
    run.fine()
    run.lines["director"] = [line for line in run.lines["director"] if line.number != 2]
    run.struck(2, 2.0, 2.2, fired=False)
    code, verdict = run.check()
    assert (code, broken(verdict)) == (2, set())
    assert "VOID: 1 planned faults did not fire (2 worker-kill: it was not there)" in capsys.readouterr().out


def test_a_fault_that_never_began_makes_the_run_void(tmp_path):
    run = Run(tmp_path, msgspec.structs.replace(PLAN, faults=(*FAULTS, Fault(3, 3.0, "poison")))).fine()
    assert run.check()[1].void == ("1 planned faults did not fire (3 poison: never begun)",)


def test_a_run_without_a_census_or_without_settlements_is_void(tmp_path):
    verdict = Run(tmp_path, msgspec.structs.replace(PLAN, faults=())).check()[1]
    assert verdict.void == ("nothing was stored", "nobody looked what was left at the end")


def test_what_held_is_told_even_when_the_run_is_void_and_a_broken_promise_outweighs_it(run):
    run.fine().sent("gone")
    run.lines["director"] = [line for line in run.lines["director"] if line.number != 2]
    code, verdict = run.check()
    assert (code, len(verdict.void)) == (1, 1)
    assert verdict.sentence.startswith("FAILED: I1")


# -- conduct


def test_a_slow_publish_or_a_late_loop_is_noticed(run):
    run.fine().lived("room")
    run.write("room", Event(4.8, Op.BEAT, counts={"rss": 1.0, "call_max": 0.004, "stall": 0.019}))
    assert run.check()[0] == 0
    run.lines.clear()
    run.write("room", Event(4.9, Op.BEAT, counts={"rss": 1.0, "call_max": 0.006, "stall": 0.021}))
    [told] = [each.told for each in run.check()[1].broken]
    assert told == "one publish_nowait took 6.0 ms; the loop was 21.0 ms late"


def test_a_loop_that_was_late_beside_an_empty_one_as_late_says_nothing(run):
    run.fine().lived("room")
    run.lived("idle")
    run.lines["idle"] = [line for line in run.lines["idle"] if line.op is not Op.STATUS]
    run.write("room", Event(4.8, Op.BEAT, counts={"rss": 1.0, "call_max": 0.001, "stall": 0.0278}))
    run.write("idle", Event(4.8, Op.BEAT, counts={"rss": 1.0, "stall": 0.0251, "turns": 288.0}))
    code, verdict = run.check()
    [found] = [each for each in verdict.findings if each.number == "I8"]
    assert (code, found.held) == (0, None)
    assert found.told == (
        "longest publish_nowait 1.0 ms; "
        "the loop was 27.8 ms late, but so was an empty loop beside it (25.1 ms): the machine"
    )
    drawn = page(Report.of(PLAN, judged_in(run.directory), Machine.here(), began="then"))
    assert "an empty loop beside it (25.1 ms)" in drawn
    run.lines.clear()
    run.write("idle", Event(4.9, Op.BEAT, counts={"rss": 1.0, "stall": 0.0049, "turns": 294.0}))
    [told] = [each.told for each in run.check()[1].broken]
    assert told == "the loop was 27.8 ms late, an empty loop beside it 4.9 ms"


@pytest.mark.parametrize(("plain", "held"), [(0.009, None), (0.007, False)])
def test_a_machine_that_holds_up_plain_arithmetic_as_long_cannot_tell(run, plain, held):
    run.fine().lived("room")
    run.write("room", Event(4.8, Op.BEAT, counts={"rss": 1.0, "call_max": 0.008, "plain_max": plain, "stall": 0.0}))
    [found] = [each for each in run.check()[1].findings if each.number == "I8"]
    assert found.held is held


def test_what_the_machine_kept_from_a_call_is_told(run):
    run.fine().lived("room")
    run.write("room", Event(4.8, Op.BEAT, counts={"rss": 1.0, "call_max": 0.001, "call_wall": 0.016, "stall": 0.0}))
    code, verdict = run.check()
    [told] = [each.told for each in verdict.findings if each.number == "I8"]
    assert code == 0
    assert told.startswith("longest publish_nowait 1.0 ms (16.0 ms with what the machine kept from it)")


def test_memory_that_grows_is_noticed(run):
    run.fine()
    run.write("producer-1", Event(4.9, Op.BEAT, counts={"rss": 120 << 20}))
    verdict = run.check()[1]
    assert broken(verdict) == {"I9"}
    assert verdict.figures.growth_mib == 70


@pytest.mark.parametrize(("changed", "words"), [({"code": 1}, "ended badly"), ({"took": 11.0}, "ended late")])
def test_a_bad_end_is_noticed(run, changed, words):
    run.fine().lived("worker-2.2", **changed)
    verdict = run.check()[1]
    assert broken(verdict) == {"I10"}
    assert words in verdict.sentence


def test_a_slow_recovery_is_noticed(run):
    run.fine()
    run.lines["director"] = [line for line in run.lines["director"] if line.number != 1]
    run.struck(1, 1.0, 1.4)
    run.lines["producer-1"] = [
        line for line in run.lines["producer-1"] if line.op is not Op.OK or line.t < 1.4 or line.t > 99
    ]
    run.sent("late", at=3.5)
    run.settled("late")
    verdict = run.check()[1]
    assert broken(verdict) == {"I11"}
    assert verdict.figures.recovery["kill-server"].max == pytest.approx(2.2)


@pytest.mark.parametrize(("elected", "held"), [(None, False), (5.0, False), (9.0, True)])
def test_an_election_that_takes_the_servers_long_is_theirs_and_what_comes_after_it_ours(tmp_path, elected, held):
    run = Run(tmp_path, msgspec.structs.replace(PLAN, backend="cluster", faults=(Fault(1, 1.0, "kill-leader"),))).fine()
    run.lines["producer-1"] = [line for line in run.lines["producer-1"] if line.op is not Op.OK or line.t < 1.4]
    run.sent("late", at=10.2)
    run.settled("late")
    if elected is not None:
        run.write("director", Event(elected, Op.ELECTED, number=1, told="another"))
    verdict = run.check()[1]
    [found] = [finding for finding in verdict.findings if finding.number == "I11"]
    assert found.held is held
    if held:
        assert found.told.endswith("longer than 8 s: 8.90 s, of which the servers' election 7.60 s")


def test_never_storing_again_is_no_recovery(run):
    run.fine()
    run.lines["producer-1"] = [line for line in run.lines["producer-1"] if line.op is not Op.OK or line.t < 1.4]
    verdict = run.check()[1]
    assert broken(verdict) == {"I11"}
    assert verdict.figures.recovery["kill-server"].max is None


def test_who_gives_no_sign_of_life_is_noticed_unless_it_was_stopped_on_purpose(tmp_path):
    plan = msgspec.structs.replace(PLAN, faults=(*FAULTS, Fault(3, 2.5, "worker-hang", 2, 7.0)))
    run = Run(tmp_path, plan).fine()
    run.struck(3, 2.6, 9.6)
    run.lived("worker-2.7", ended=11.0, until=2.5)
    run.write("worker-2.7", Event(10.0, Op.BEAT))
    assert run.check()[0] == 0
    run.lines.clear()
    run.lived("worker-1.7", ended=11.0, until=2.5, begun=2.0)
    run.write("worker-1.7", Event(10.5, Op.BEAT))
    assert broken(run.check()[1]) == {"I12"}


def test_who_dies_or_never_connects_again_is_noticed(run):
    run.fine().lived("worker-1.2", begun=2.3, why="died", code=-11)
    run.write("producer-1", Event(4.0, Op.STATUS, told="reconnecting"))
    verdict = run.check()[1]
    assert broken(verdict) == {"I12"}
    assert "never connected again (producer-1: reconnecting); 1 died by themselves (worker-1.2 with -11)" in (
        verdict.sentence
    )


def test_who_does_not_notice_that_the_server_is_gone_is_told(run):
    run.fine().lived("worker-1.2", blind=True)
    verdict = run.check()[1]
    assert broken(verdict) == {"I13"}
    assert "kill-server number 1 by worker-1.2" in verdict.sentence


# -- the parts


def test_what_is_written_stays(tmp_path):
    run = Run(tmp_path).fine()
    with closing(sqlite3.connect(run.directory / BOOKS)) as db:
        for statement in ("DELETE FROM posting", "UPDATE outbox SET key = 'x'"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                db.execute(statement)


def test_a_torn_line_is_left_out_and_a_mended_one_is_an_error(tmp_path):
    with History(tmp_path, "worker-1.1") as history:
        history.write(Op.COMMIT, key="a")
        history.write(Op.COMMIT, key="b", counts={"x": 1.0})
    path = tmp_path / "worker-1.1.jsonl"
    path.write_bytes(path.read_bytes() + b'{"t":1,"op":"comm')
    assert [event.key for event in events(path)] == ["a", "b"]
    assert [event.key for event in last_events(path)] == ["a", "b"]
    assert [event.key for event in last_events(path, tail=80)] == ["b"]
    assert last_events(tmp_path / "nobody.jsonl") == []
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(msgspec.DecodeError):
        list(events(path))


def test_settlements_come_through_the_wire_and_nothing_else_does():
    settlement = settlement_of("producer-1-17")
    assert read(body_of(settlement)) == settlement
    for body in (
        *(b"", b"{", b"[" * 100_000, b'{"key":"a"}', b'{"key":"a","account":"b","amount":1,"c":1}'),
        *(body_of(Settlement("a", "b", 0)), body_of(Settlement("a", "b", -5)), body_of(Settlement("", "b", 1))),
    ):
        with pytest.raises(ValueError, match="not a settlement"):
            read(body)


def test_limits_stretch_in_time_and_not_in_memory():
    limits = Limits().times(10)
    assert (limits.recovery, limits.growth) == (20.0, 64.0)


def test_a_run_smaller_than_promised_is_void(tmp_path):
    run = Run(tmp_path, msgspec.structs.replace(PLAN, least=21)).fine()
    assert run.check()[1].void == ("only 20 settlements took effect, of 21 at least",)


def test_the_report_says_how_to_do_it_again_and_the_page_escapes_what_it_shows(tmp_path):
    plan = msgspec.structs.replace(PLAN, mode="<quick>", everything=False, shortened="5 s of 60")
    plan = msgspec.structs.replace(plan, scenarios=("kill-server", "worker-kill:after_commit"))
    Run(tmp_path, plan).fine().check()
    machine = Machine.here()
    report = Report.of(plan, judged_in(tmp_path), machine, began="then")
    assert report.command.endswith("--durability os --scenario kill-server worker-kill:after_commit")
    assert report.passed
    assert "<quick>" not in (drawn := page(report))
    assert "&lt;quick&gt;" in drawn
    assert drawn.count("<rect") == 2
    assert "seen to be gone, next stored after" in drawn
    assert report.sentence.endswith("(SHORTENED: 5 s of 60)")
    report.save(tmp_path / "kept.json")
    assert msgspec.json.decode((tmp_path / "kept.json").read_bytes(), type=Report) == report


def test_slices_are_told_one_by_one_and_together(tmp_path):
    reports = []
    for part in ("one", "cluster"):
        (tmp_path / part).mkdir()
        plan = msgspec.structs.replace(PLAN, part=part, least=21 if part == "cluster" else 0)
        Run(tmp_path / part, plan).fine().check()
        reports.append(Report.of(plan, judged_in(tmp_path / part), Machine.here(), began="then"))
    whole = Series.of(reports)
    assert (whole.passed, whole.effects, whole.faults, whole.seconds) == (False, 40, 4, 20.0)
    assert whole.sentence.startswith("NOT PASSED: 40 settlements under 4 faults; one: PASSED: 20 ")
    assert "cluster: VOID: only 20 settlements took effect, of 21 at least" in whole.sentence
    assert whole.command == (
        "gamebroker chaos --mode by hand --seed 1 --seconds 20 --faults 4 --db sqlite --workers 2 --durability os"
    )
    drawn = page(whole)
    assert drawn.count("<svg") == 2
    assert drawn.count("</html>") == 1
    whole.save(tmp_path / "kept.json")
    assert msgspec.json.decode((tmp_path / "kept.json").read_bytes(), type=Series) == whole


def test_what_was_committed_in_an_outbox_is_promised(run):
    run.fine().write(
        "producer-1", Event(2.0, Op.START, "kept", "d", told="effect"), Event(2.1, Op.WRITTEN, "kept", "d")
    )
    verdict = run.check()[1]
    assert broken(verdict) == {"I1"}
    assert "1 confirmed and lost (kept d)" in verdict.sentence


def test_the_timeline_counts_everything_once_and_knows_what_never_began(tmp_path):
    plan = msgspec.structs.replace(PLAN, faults=(*FAULTS, Fault(3, 3.0, "poison")))
    Run(tmp_path, plan).fine().check()
    line = judged_in(tmp_path).timeline
    assert sum(line.stored) * line.step == sum(line.settled) * line.step == 20
    assert [span.lane for span in line.faults] == ["server", "worker 1", "data"]
    assert [span.fired is not None for span in line.faults] == [True, True, False]
    assert line.faults[0].recovery == pytest.approx(0.0, abs=0.11)
    assert (line.faults[2].begun, line.faults[2].told) == (None, "never begun")
