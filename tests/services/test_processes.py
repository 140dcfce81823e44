"""The services as processes on a real server: killed, drained, and ended with whoever started them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from broker import Entry, StreamBroker
from broker.server import NatsServer
from services.children import Children
from services.demo.evidence import ended_battles, records, rows, stored_copies
from services.demo.verdict import OK
from services.events import (
    AUDIT,
    BATTLE_SETTLE,
    LEADERBOARD,
    LEADERBOARD_UPDATE,
    SETTLE_WORKER,
    SETTLEMENTS,
    STANDINGS_WORKER,
    LeaderboardUpdate,
)
from services.process import ORPHANED

pytestmark = pytest.mark.nats

BATTLES = 200
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
async def server():
    async with NatsServer() as started:
        yield started


@pytest.fixture
async def live(server):
    async with StreamBroker.connect(server.url) as connected:
        await connected.declare(SETTLEMENTS, LEADERBOARD, AUDIT)
        yield connected


@pytest.fixture
def children(server, tmp_path):
    with Children(tmp_path, server.url) as started:
        yield started


@pytest.fixture
def ledger(tmp_path):
    return tmp_path / "ledger.db"


def count(path: Path, query: str) -> int:
    found = rows(path, query)
    return found[0][0] if found else 0


def settled(ledger: Path) -> int:
    return count(ledger, "SELECT count(*) FROM settlement")


def unsent(ledger: Path) -> int:
    return count(ledger, "SELECT count(*) FROM gamebroker_outbox WHERE sent_at IS NULL")


def settler(children: Children, ledger: Path, name: str):
    return children.start(name, "services.settlement", "--database", str(ledger), "--name", name, "--ack-wait", "1")


async def enqueue_battles(live, make_battle) -> None:
    await live.enqueue_many(
        Entry(BATTLE_SETTLE, make_battle(f"b-{n}"), idempotency_key=f"b-{n}") for n in range(BATTLES)
    )


@pytest.mark.fault
@pytest.mark.timeout(150)
async def test_a_settlement_worker_killed_midway_settles_every_battle_once(
    live, children, ledger, make_battle, eventually
):
    first = settler(children, ledger, "first")
    await first.ready(30)
    await enqueue_battles(live, make_battle)
    await eventually(lambda: settled(ledger) >= 20, 30)
    assert first.signal(signal.SIGKILL)
    assert await first.ended(15) == -signal.SIGKILL
    left = BATTLES - settled(ledger)
    assert left > 0, "killed too late: nothing was left to do"
    second = settler(children, ledger, "second")
    await eventually(lambda: settled(ledger) == BATTLES, 60)
    await eventually(lambda: unsent(ledger) == 0, 60)
    assert rows(ledger, "SELECT worker, count(*) FROM settlement GROUP BY worker") == [
        ("first", BATTLES - left),
        ("second", left),
    ]
    assert rows(ledger, "SELECT count(*), sum(amount), count(DISTINCT tx) FROM entry") == [(BATTLES * 4, 0, BATTLES)]
    assert (await live.streams.info(LEADERBOARD.name)).messages == BATTLES * 3
    assert (await live.streams.info(AUDIT.name)).messages == BATTLES
    assert await children.drain([second], 30) == []


@pytest.mark.fault
@pytest.mark.slow
@pytest.mark.timeout(90)
async def test_battles_are_settled_once_though_the_server_is_killed_again_and_again(
    server, children, ledger, tmp_path, eventually
):
    record, standings = tmp_path / "rooms.jsonl", tmp_path / "standings.db"
    worker = settler(children, ledger, "worker")
    options = ("--rooms", "a,b,c", "--battle-seconds", "0.5", "--stats", str(record))
    rooms = children.start("rooms", "services.game_room", *options)
    board = children.start("leaderboard", "services.leaderboard", "--standings", str(standings), "--ack-wait", "1")
    await children.ready((worker, rooms, board), 30)
    for _ in range(2):
        before = len(ended_battles([record]))
        await eventually(lambda before=before: len(ended_battles([record])) >= before + 4, 15)
        await server.kill()
        await asyncio.sleep(0.5)
        await server.start()
    assert await children.drain([rooms], 25) == []
    ended = sorted(ended_battles([record]))
    await eventually(lambda: settled(ledger) >= len(ended), 20)
    await eventually(lambda: count(standings, "SELECT count(*) FROM applied") >= 8 * len(ended), 20)
    assert sorted(battle for (battle,) in rows(ledger, "SELECT battle_id FROM settlement")) == ended
    assert rows(ledger, "SELECT count(*), sum(amount) FROM entry") == [(9 * len(ended), 0)]
    assert await children.drain((worker, board), 25) == []


@pytest.mark.timeout(150)
async def test_sigterm_drains_a_settlement_worker_and_nothing_is_left_in_its_hands(
    live, children, ledger, make_battle, eventually
):
    worker = settler(children, ledger, "worker")
    await worker.ready(30)
    await enqueue_battles(live, make_battle)
    await eventually(lambda: settled(ledger) >= 20, 30)
    assert await children.drain([worker], 30) == []
    done = settled(ledger)
    assert done < BATTLES, "drained too late: nothing was left to do"
    info = await live.consumers.info(SETTLEMENTS.name, SETTLE_WORKER)
    # What it gave back counts as unsettled until it is handed out again; what it has settled comes to nobody again.
    assert info.ack_pending + info.pending == BATTLES - done
    assert unsent(ledger) == 0
    assert (await live.streams.info(LEADERBOARD.name)).messages == done * 3
    assert (await live.streams.info(AUDIT.name)).messages == done
    following = settler(children, ledger, "following")
    await eventually(lambda: settled(ledger) == BATTLES, 60)
    assert await children.drain([following], 30) == []


@pytest.mark.timeout(60)
async def test_sigterm_has_a_room_process_end_and_store_its_battles(live, children, tmp_path, eventually):
    record = tmp_path / "rooms.jsonl"
    rooms = children.start(
        "rooms", "services.game_room", "--rooms", "a,b,c", "--battle-seconds", "0.5", "--stats", str(record)
    )
    await rooms.ready(15)
    await eventually(lambda: len(ended_battles([record])) >= 4, 15)
    assert await children.drain([rooms], 15) == []
    copies = await stored_copies(live)
    assert sorted(copy.ended.battle_id for copy in copies) == sorted(ended_battles([record]))
    assert {copy.ended.room for copy in copies} == {"a", "b", "c"}
    final = records(record)[-1]
    assert final["op"] == "final"
    assert final["planned"] == final["run"] + final["skipped"]
    assert final["run"] == final["frames"] > 0


@pytest.mark.fault
@pytest.mark.timeout(60)
@pytest.mark.parametrize("how", ["frozen", "dead"])
@pytest.mark.usefixtures("live")
async def test_sigterm_ends_a_room_process_after_its_grace_though_the_server_answers_nothing(children, server, how):
    rooms = children.start("rooms", "services.game_room", "--rooms", "a,b", "--grace", "4")
    await rooms.ready(15)
    await (server.freeze() if how == "frozen" else server.kill())
    try:
        assert rooms.signal(signal.SIGTERM)
        assert await rooms.ended(20) == 1
    finally:
        if how == "frozen":
            await server.thaw()
    assert "2 rooms could not have their last battle stored" in rooms.log.read_text()
    assert "Traceback" not in rooms.log.read_text()


@pytest.mark.timeout(60)
async def test_sigterm_drains_a_leaderboard_worker(live, children, tmp_path, eventually):
    standings = tmp_path / "standings.db"
    worker = children.start("leaderboard", "services.leaderboard", "--standings", str(standings))
    await worker.ready(15)
    await live.enqueue_many(
        Entry(
            LEADERBOARD_UPDATE,
            LeaderboardUpdate(event_id=f"e{n}", board="b", player="p", points=1, battle_id="x", event_time=n),
        )
        for n in range(BATTLES)
    )
    await eventually(lambda: count(standings, "SELECT count(*) FROM applied") >= 20, 15)
    assert await children.drain([worker], 15) == []
    done = count(standings, "SELECT score FROM standing")
    info = await live.consumers.info(LEADERBOARD.name, STANDINGS_WORKER)
    assert info.ack_pending + info.pending == BATTLES - done


@pytest.mark.fault
@pytest.mark.usefixtures("live")
async def test_a_process_ends_when_its_starter_does(children, ledger):
    worker = settler(children, ledger, "worker")
    await worker.ready(15)
    assert worker.process.stdin is not None
    worker.process.stdin.close()
    assert await worker.ended(5) == ORPHANED


async def test_a_server_that_is_not_there_is_one_plain_sentence(children, server, ledger):
    await server.stop()
    worker = settler(children, ledger, "worker")
    assert await worker.ended(15) == 1
    said = worker.log.read_text()
    assert "Traceback" not in said
    assert len(said.splitlines()) == 1


@pytest.mark.usefixtures("live")
async def test_a_place_where_no_ledger_can_be_is_one_plain_sentence(children, tmp_path):
    worker = settler(children, tmp_path / "no" / "such" / "ledger.db", "worker")
    assert await worker.ended(15) == 1
    said = worker.log.read_text()
    assert "there is no directory for" in said
    assert "ledger.db" in said
    assert len(said.splitlines()) == 1
    assert "Traceback" not in said


# -- the demo


def start_demo(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "services.demo", *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def family(pid: int) -> set[int]:
    """The process's descendants now."""
    stats = {int(each.name): read(each / "stat") for each in Path("/proc").iterdir() if each.name.isdigit()}
    parents = {child: int(stat.rpartition(")")[2].split()[1]) for child, stat in stats.items() if stat}
    found, grown = {pid}, True
    while grown:
        grown = {child for child, parent in parents.items() if parent in found} - found
        found |= grown
    return found - {pid}


def state(pid: int) -> str:
    """As /proc has it: R, S, T ...; nothing when it is gone or only waits to be reaped."""
    letter = read(Path(f"/proc/{pid}/stat")).rpartition(")")[2][1:2]
    return "" if letter in "ZX" else letter


def read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


@pytest.mark.slow
@pytest.mark.timeout(90)
async def test_a_short_demo_is_ok_and_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with start_demo("--rooms", "4", "--seconds", "4") as demo:
        said, _ = await asyncio.to_thread(demo.communicate, timeout=80)
    assert demo.returncode == 0, said
    assert said.splitlines()[-1] == OK
    assert "Traceback" not in said
    assert "settlement-1 killed with SIGKILL" in said
    assert [each for each in tmp_path.iterdir() if each.name.startswith("gamebroker-demo-")] == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("how", ["ctrl-c", "kill-9", "kill-9 while a worker is frozen"])
@pytest.mark.fault
@pytest.mark.slow
@pytest.mark.timeout(90)
async def test_whatever_ends_the_demo_ends_its_processes(tmp_path, eventually, how):
    with start_demo("--rooms", "2", "--seconds", "60", "--keep", str(tmp_path / "kept")) as demo:
        try:
            await eventually(lambda: "game_room ready" in read(tmp_path / "kept" / "rooms-1.log"), 30)
            started = family(demo.pid)
            # Two workers, the leaderboard, the crowd, the rooms, the guardian and its nats-server.
            assert len(started) >= 7
            if "frozen" in how:
                worker = next(pid for pid in started if "services.settlement" in read(Path(f"/proc/{pid}/cmdline")))
                os.kill(worker, signal.SIGSTOP)
                await eventually(lambda: state(worker) == "T")
            os.kill(demo.pid, signal.SIGINT if how == "ctrl-c" else signal.SIGKILL)
            code = await asyncio.to_thread(demo.wait, 10)
            await eventually(lambda: not any(state(pid) for pid in started), 5)
        finally:
            demo.kill()
        said = demo.stdout.read()
    assert "Traceback" not in said
    if how == "ctrl-c":
        assert code == 130
        assert said.splitlines()[-1] == "interrupted"
