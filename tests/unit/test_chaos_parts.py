"""The parts of the chaos harness that need no run: sizes and slices, blocks on disk, how late a loop was."""

import argparse
import asyncio
import gc
import struct
import time

import pytest

from loadtest.chaos.blocks import flip, stored
from loadtest.chaos.calls import Call, Processor
from loadtest.chaos.catalogue import KINDS
from loadtest.chaos.modes import MODES
from loadtest.chaos.pace import Lateness, Pace
from loadtest.chaos.planning import left_out, plans


def given(**changed):
    said = {"mode": "quick", "seed": 1, "backend": None, "db": "sqlite", "send": None, "scenario": None}
    said |= {"seconds": None, "faults": None, "rate": None, "workers": 2, "slack": 1.0, "durability": "os"}
    return argparse.Namespace(**(said | {"mutate": None} | changed))


# -- sizes and slices


def test_the_full_mode_is_fifteen_minutes_three_hundred_faults_and_a_million():
    full = MODES["full"]
    assert (full.seconds, full.faults >= 300) == (900.0, True)
    assert sum(each.least for each in full.slices) == 1_000_000
    assert sum(each.seconds * each.rate for each in full.slices) > 1_100_000
    assert any(each.backend == "cluster" for each in full.slices)


def test_a_shortened_run_keeps_its_proportions_says_so_and_has_no_bar():
    made = plans(given(mode="full", seconds=90.0, faults=40))
    assert [plan.part for plan in made] == ["one", "losses", "cluster"]
    assert sum(plan.seconds for plan in made) == pytest.approx(90.0)
    assert sum(len(plan.faults) for plan in made) == 40
    assert {plan.shortened for plan in made} == {"90 s of 900"}
    assert {plan.least for plan in made} == {0}
    assert [plan.seed for plan in made] == [1, 2, 3]


def test_less_time_has_fewer_faults():
    [plan] = plans(given(seconds=20.0))
    assert (plan.seconds, len(plan.faults)) == (20.0, 15)


def test_a_backend_or_a_way_to_send_that_was_named_has_it_all():
    [plan] = plans(given(mode="full", backend="cluster"))
    assert (plan.backend, plan.seconds, plan.least, plan.shortened) == ("cluster", 900.0, 1_000_000, "")
    [plan] = plans(given(send="outbox"))
    assert (plan.send, plan.seconds) == ("outbox", 60.0)
    assert "stream-deleted" in {fault.kind for fault in plan.faults}


@pytest.mark.parametrize("right", [True, False])
def test_what_cannot_be_done_is_left_out_before_the_run_and_told_why(monkeypatch, right):
    for may in ("_may_mount", "_may_divide"):
        monkeypatch.setattr(f"loadtest.chaos.abilities.{may}", lambda: right)
    made = plans(given(mode="full"))
    kinds = [{fault.kind for fault in plan.faults} for plan in made]
    assert ("disk-full" in kinds[1]) is right
    assert ("partition" in kinds[2]) is right
    told = {plan.part: left_out(plan) for plan in made}
    assert "stream-deleted needs producers with an outbox (--send outbox)" in told["one"]
    assert ("disk-full needs the right to mount a file system" in told["losses"]) is not right
    assert ("minority-client needs the right to make network namespaces" in told["cluster"]) is not right
    if right:
        assert set.union(*kinds) == {name for name, kind in KINDS.items() if "sqlite" in kind.databases}


def test_what_is_asked_for_and_cannot_be_done_is_refused():
    with pytest.raises(ValueError, match="bit-flip: needs producers with an outbox"):
        plans(given(scenario=["bit-flip"]))
    with pytest.raises(ValueError, match="kill-leader is nothing that happens to the backend nats"):
        plans(given(scenario=["kill-leader"]))


# -- blocks on disk


def record(sequence, body, headers=b"", subject=b"s.a"):
    size = 22 + len(subject) + len(body) + 8 + (4 + len(headers) if headers else 0)
    head = struct.pack("<IQqH", size | (1 << 31 if headers else 0), sequence, 0, len(subject)) + subject
    return head + (struct.pack("<I", len(headers)) + headers if headers else b"") + body + b"checksum"


def test_one_bit_of_one_body_is_flipped(tmp_path):
    folder = tmp_path / "jetstream" / "$G" / "streams" / "S" / "msgs"
    folder.mkdir(parents=True)
    (folder / "9.blk").write_bytes(record(1, b"old"))
    content = b"".join(record(number, b"body%d" % number, b"NATS/1.0\r\n\r\n") for number in range(2, 50))
    (folder / "10.blk").write_bytes(content + record(50, b"torn")[:-5])
    assert [each.sequence for each in stored(content)] == list(range(2, 50))
    flipped = flip(tmp_path, "S")
    assert (flipped.block, flipped.sequence, flipped.body, flipped.after) == ("10.blk", 30, b"body30", 19)
    assert (folder / "9.blk").read_bytes() == record(1, b"old")
    after = (folder / "10.blk").read_bytes()
    assert len(after) == len(content) + len(record(50, b"torn")) - 5
    changed = [at for at in range(len(content)) if after[at] != content[at]]
    assert len(changed) == 1
    assert after[changed[0]] ^ content[changed[0]] == 1
    assert flip(tmp_path, "ANOTHER") is None


# -- how late a loop was


def test_lateness_takes_no_room_and_is_true_to_a_step():
    late = Lateness()
    assert (late.often(0.999), late.longest) == (0.0, 0.0)
    for turn in range(10_000):
        late.add(0.001 if turn % 100 else 0.012)
    late.add(3.0)
    assert late.turns == 10_001
    assert late.often(0.5) == pytest.approx(0.001, abs=0.0005)
    assert late.often(0.999) == pytest.approx(0.012, abs=0.0005)
    assert (late.often(1.0), late.longest) == (3.0, 3.0)


async def test_a_loop_keeps_its_pace_and_counts_until_it_is_told_to_stop():
    stop, taken, begun = asyncio.Event(), [], time.perf_counter()
    pace = Pace(Processor())

    def turn():
        taken.append(time.perf_counter())
        if len(taken) == 3:
            time.sleep(0.2)
        if len(taken) == 8:
            stop.set()

    try:
        await pace.keep(turn, stop)
    finally:
        gc.unfreeze()
    counts = pace.counts()
    assert counts.keys() == {"stall", "stall_max", "late_max", "turns"}
    assert counts["turns"] == len(taken) == 8
    assert taken[2] - begun >= 3 / 60 - 0.005
    assert counts["late_max"] >= counts["stall_max"] >= counts["stall"] > 0.15


# -- what a call costs


def test_a_call_that_goes_to_sleep_costs_all_of_its_time():
    processor = Processor()
    call = Call.begins(processor)
    time.sleep(0.05)
    took = time.perf_counter() - call.at
    waited = processor.waited() - call.waited
    assert call.cost(took, processor) >= took - waited - 0.001 >= 0.02


def test_a_machine_that_stood_still_costs_the_call_nothing():
    processor = Processor()
    call = Call.begins(processor)
    assert call.cost(60.0, processor) < 1


def test_a_call_that_works_costs_what_it_works():
    processor = Processor()
    call = Call.begins(processor)
    while processor.worked() - call.worked < 0.03:
        pass
    assert call.cost(60.0, processor) >= 0.03
