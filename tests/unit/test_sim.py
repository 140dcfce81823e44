"""The simulation: nothing found in 500 seeds, every planted bug found, the same seed the same story in any process."""

import asyncio
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from loadtest.sim.__main__ import main
from loadtest.sim.loop import Stuck, VirtualLoop
from loadtest.sim.regressions import REGRESSIONS
from loadtest.sim.run import run
from loadtest.sim.shape import PLANTS, Shape

TOP = Path(__file__).resolve().parents[2]
CHUNK = 50


@pytest.mark.timeout(120)
@pytest.mark.parametrize("first", range(0, 500, CHUNK))
def test_nothing_is_lost_applied_twice_or_left(first):
    for seed in range(first, first + CHUNK):
        outcome = run(seed)
        assert not outcome.violations, f"{outcome.reproduction}: {outcome.violations}"


@pytest.mark.parametrize("seed", REGRESSIONS)
def test_what_was_found_once_stays_found(seed):
    assert not run(seed).violations, REGRESSIONS[seed]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_bug_is_found(plant):
    found = next((seed for seed in range(1_000) if run(seed, plant).violations), None)
    assert found is not None
    assert f"--seed {found} --plant {plant}" in run(found, plant).reproduction


@pytest.mark.timeout(120)
def test_the_same_seed_is_the_same_story_in_any_process():
    command = [sys.executable, "-m", "loadtest.sim", "--seeds", "40", "--first", "7", "--processes", "1"]
    told = [
        subprocess.run(
            command, cwd=TOP, env={**os.environ, "PYTHONHASHSEED": salt}, capture_output=True, text=True, check=True
        ).stdout
        for salt in ("1", "4711")
    ]
    first, second = (each.rpartition("traces ")[2] for each in told)
    assert first == second
    assert len(first.strip()) == 32


def test_another_seed_is_another_story():
    assert run(1).digest != run(2).digest
    assert run(1).digest == run(1).digest


def test_seeds_have_every_kind_of_worker_and_fault():
    shapes = [Shape.drawn(seed) for seed in range(200)]
    assert {shape.mode for shape in shapes} == {"tasks", "inline", "batches", "ordered"}
    assert {event.deed for shape in shapes for event in shape.events} == {
        *("crash", "break", "leave", "clock", "stall", "forget")
    }
    assert all(any(getattr(shape.weather, each) for shape in shapes) for each in shapes[0].weather.__slots__)


def test_one_seed_alone_shows_its_trace(capsys):
    assert main(["--seed", "3", "--trace"]) == 0
    told = capsys.readouterr().out
    assert "commit" in told
    assert "calm" in told
    assert run(3).digest in told


def test_nothing_of_the_simulated_world_is_left_outside():
    before = (time.time, time.monotonic, os.urandom, random.getstate())
    run(5)
    assert (time.time, time.monotonic, os.urandom, random.getstate()) == before


def test_virtual_time_jumps_to_the_next_timer():
    loop, began = VirtualLoop(), time.perf_counter()
    try:
        loop.run_until_complete(asyncio.sleep(86_400))
        assert loop.time() == pytest.approx(86_400, abs=0.1)
    finally:
        loop.close()
    assert time.perf_counter() - began < 60


def test_who_waits_for_what_never_comes_is_told():
    loop = VirtualLoop()

    async def wait():
        await loop.create_future()

    waiting = loop.create_task(wait())
    try:
        with pytest.raises(Stuck):
            loop.run_until_complete(waiting)
        waiting.cancel()
        loop.run_until_complete(asyncio.wait([waiting]))
    finally:
        loop.close()
