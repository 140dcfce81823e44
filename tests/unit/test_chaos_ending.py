"""How a chaos run ends, with processes made by hand: nobody is asked to before it had its time to connect again."""

import asyncio
import signal
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from loadtest.chaos.crew import Crew
from loadtest.chaos.director import Director
from loadtest.chaos.histories import Event, History, Op, events, last_of, now, pulse_file
from loadtest.chaos.plan import Limits, Plan
from loadtest.chaos.pulse import Pulse
from loadtest.chaos.stage import Stage
from services.children import Child

NAMES = ("worker-1.1", "producer-1", "room", "idle")
PLAN = Plan(seed=1, mode="by hand", seconds=0.0, rate=1.0, faults=(), producers=1, workers=1)


class Process:
    """Runs until it is asked to end, as far as anybody can see, and gives signs of life meanwhile."""

    stdin = None

    def __init__(self, directory, name):
        self.returncode = 0 if name == "census" else None
        self.asked = 0.0
        self.pulse = History(directory, name, pulse=True)

    def poll(self):
        return self.returncode

    def send_signal(self, number):
        assert number is signal.SIGTERM
        self.asked, self.returncode = now(), 0

    def says(self, status):
        self.pulse.write(Op.STATUS, told=status)


class Processes:
    """Instead of ``Children``."""

    def __init__(self, directory):
        self.directory = directory
        self.all = {}

    def start(self, name, *_):
        process = self.all[name] = Process(self.directory, name)
        if name != "idle":
            process.says("connected")
        return Child(name, process, Path())

    async def ready(self, *_):
        pass

    def close(self):
        for process in self.all.values():
            process.pulse.close()

    def beat(self):
        for process in self.all.values():
            if process.returncode is None:
                process.pulse.write(Op.BEAT, counts={"rss": 1.0})

    def asked(self):
        return {name: process.asked for name, process in self.all.items() if process.asked}


class Ending:
    """A run without faults and servers."""

    def __init__(self, directory, processes, history, alive):
        self.processes = processes
        self.said = []
        plan = msgspec.structs.replace(PLAN, limits=Limits(alive=alive))
        self.director = Director(plan, directory, self.said.append)
        crew = Crew(directory, processes, history, grace=1.0)
        inject = SimpleNamespace(send=_nothing)
        broker = SimpleNamespace(consumers=SimpleNamespace(info=_settled))
        ledger = SimpleNamespace(last=lambda: 0)
        self.stage = Stage(plan, directory, ledger, None, broker, crew, inject, history, history)

    async def run(self, meanwhile):
        """To its end; ``meanwhile`` goes on beside it once everybody has begun. When each was asked to end."""
        async with asyncio.TaskGroup() as group:
            whole = group.create_task(self.director._play(self.stage))
            beside = None
            while not whole.done():
                if beside is not None:
                    self.processes.beat()
                elif "producer-1" in self.processes.all:
                    beside = group.create_task(meanwhile(self.processes))
                await asyncio.sleep(0.02)
        return self.processes.asked()

    def missed(self):
        """What was said of who was not connected, among the lines of how it goes."""
        return [line for line in self.said if line.startswith("not connected")]


async def _nothing(*_):
    pass


async def _settled(*_):
    return SimpleNamespace(pending=0, ack_pending=0)


@pytest.fixture
def processes(tmp_path):
    with closing(Processes(tmp_path)) as them:
        yield them


@pytest.fixture
def history(tmp_path):
    with History(tmp_path, "director", pulse=True) as pulse:
        yield pulse


async def test_nobody_is_asked_to_end_before_everybody_is_connected_again(tmp_path, processes, history):
    ending, again = Ending(tmp_path, processes, history, alive=10.0), []

    async def reconnects(processes):
        processes.all["room"].says("reconnecting")
        await asyncio.sleep(0.3)
        again.append(now())
        processes.all["room"].says("connected")

    asked = await ending.run(reconnects)
    assert asked.keys() == set(NAMES)
    assert min(asked.values()) >= again[0]
    assert ending.missed() == []


async def test_who_never_connects_again_is_asked_to_end_when_it_had_its_time(tmp_path, processes, history):
    ending, since = Ending(tmp_path, processes, history, alive=0.4), now()

    async def stays_away(processes):
        processes.all["room"].says("reconnecting")

    asked = await ending.run(stays_away)
    assert asked.keys() == set(NAMES)
    assert min(asked.values()) >= since + 0.4
    assert ending.missed() == ["not connected 0.4 s after the last fault: room"]
    assert last_of(pulse_file(tmp_path, "room"), Op.STATUS).told == "reconnecting"


async def test_who_has_ended_is_not_waited_for(tmp_path, processes, history):
    ending = Ending(tmp_path, processes, history, alive=10.0)

    async def dies(processes):
        processes.all["worker-1.1"].says("reconnecting")
        processes.all["worker-1.1"].returncode = -11

    asked = await ending.run(dies)
    assert asked.keys() == set(NAMES) - {"worker-1.1"}
    [death] = [event for event in events(pulse_file(tmp_path, "director")) if event.told == "died"]
    assert (death.key, death.counts["code"]) == ("worker-1.1", -11)


async def test_what_was_told_before_says_nothing_about_now(tmp_path, processes, history):
    crew = Crew(tmp_path, processes, history, grace=1.0)
    await crew.begin(["room", "idle"])
    processes.beat()
    assert crew.adrift(since=0.0) == []
    assert crew.adrift(since=(since := now())) == ["room"]
    await asyncio.sleep(0.001)  # the clock of histories has steps of a microsecond
    processes.beat()
    assert crew.adrift(since) == []


def test_the_last_of_a_kind_is_found_however_far_back_it_is(tmp_path):
    path = pulse_file(tmp_path, "room")
    assert last_of(path, Op.STATUS) is None
    with History(tmp_path, "room", pulse=True) as pulse:
        pulse.write(Op.STATUS, told="reconnecting")
        pulse.write(Op.STATUS, told="connected")
        pulse.write_many([Event(float(at), Op.BEAT, counts={"turns": float(at)}) for at in range(5000)])
    assert last_of(path, Op.STATUS).told == "connected"
    assert last_of(path, Op.BEAT).t == 4999.0
    assert last_of(path, Op.DIE) is None


async def test_a_process_without_a_connection_has_a_pulse_and_tells_of_none(tmp_path):
    with History(tmp_path, "idle", pulse=True) as history:
        async with Pulse(None, history, lambda: {"turns": 1.0}):
            await asyncio.sleep(0)
    told = list(events(pulse_file(tmp_path, "idle")))
    assert [event.op for event in told] == [Op.BEAT, Op.BEAT]
    assert {frozenset(event.counts) for event in told} == {frozenset({"rss", "turns"})}


@pytest.mark.parametrize("away", ["worker-1.1", "producer-1"])
async def test_workers_and_producers_are_waited_for_like_the_room(tmp_path, processes, history, away):
    crew = Crew(tmp_path, processes, history, grace=1.0)
    await crew.begin(["worker-1", "producer-1", "room", "idle"])
    processes.all[away].says("reconnecting")
    processes.beat()
    assert crew.adrift(since=0.0) == [away]
