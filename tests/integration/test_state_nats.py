"""The state channel on a real server: readers that sleep, lines that break, owners that restart."""

import asyncio
import logging
import random
import sys
import time
from asyncio.subprocess import PIPE
from contextlib import aclosing

import pytest
import pytest_asyncio

from broker import Broker, RequestError, Status
from broker.server import NatsServer
from broker.testing.cancelling import cancelled_everywhere
from broker.testing.waiting import eventually
from tests.door import door_to

pytestmark = pytest.mark.nats

ROOM = "battle.42.state"

OWNER = """
import asyncio, sys
from broker import Broker

async def main(url, run):
    async with Broker.connect(url) as broker:
        room = broker.state("battle.42.state", epoch=1)
        for tick in range(1, 1_000_000):
            room.tick({"run": run, "ann": {"tick": tick}}, [[run, tick]] if tick % 10 == 0 else ())
            await asyncio.sleep(1 / 60)

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


@pytest_asyncio.fixture
async def connect(nats_server, link):
    opened = []

    async def connect(url=None, **options):
        opened.append(await Broker.connect(url or nats_server.url, link=link, **options))
        return opened[-1]

    yield connect
    for broker in opened:
        await broker.aclose()


async def play(publisher, battle, seconds, rate=60):
    """A room's loop: players move, the bag of one fills, and now and then somebody is killed."""
    loop, chance = asyncio.get_running_loop(), random.Random(7)
    end = loop.time() + seconds
    while loop.time() < end:
        for fields in battle.values():
            fields["x"] += chance.uniform(-1, 1)
        battle["p0"]["bag"] = [*battle["p0"]["bag"][-3:], publisher.seq]
        publisher.tick(battle, [{"kill": publisher.seq}] if publisher.seq % 10 == 0 else ())
        await asyncio.sleep(1 / rate)


def a_battle(players=10):
    return {f"p{number}": {"x": 0.0, "y": 1.0, "hp": 100, "bag": []} for number in range(players)}


async def test_a_reader_asleep_for_seconds_wakes_up_to_the_newest_state_and_every_event(connect):
    room, player, other = await connect(), await connect(), await connect()
    battle, seen = a_battle(), []

    async def attentive(reader):
        async for update in reader:
            seen.append(update.seq)

    async with player.watch_state(ROOM) as asleep, other.watch_state("battle.*.state") as awake:
        following = asyncio.create_task(attentive(awake))
        publisher = room.state(ROOM)
        await play(publisher, battle, seconds=4)  # the sleeper does not read meanwhile
        sent = publisher.seq
        await eventually(lambda: asleep.stats.received == sent)
        update = await anext(asleep)
        assert (update.seq, update.state, update.lost) == (sent, battle, 0)
        assert update.superseded == asleep.stats.superseded == sent - 1
        assert [event.body["kill"] for event in update.events] == list(range(0, sent, 10))
        assert (player.stats.dropped_inbound, update.events_lost) == (0, 0)
        await eventually(lambda: seen and seen[-1] == sent)
        assert len(seen) > 10, "who keeps up reads nearly every frame"
        following.cancel()


async def test_it_stays_right_while_the_line_breaks_again_and_again(connect, nats_server):
    room = await connect()
    async with door_to(nats_server) as door:
        player = await connect(door.url)
        publisher, battle = room.state(ROOM, keyframe_every=10_000), a_battle()
        async with player.watch_state(ROOM) as reader:
            playing = asyncio.create_task(play(publisher, battle, seconds=4))
            for _ in range(3):
                await asyncio.sleep(0.5)
                door.shut()
                await eventually(lambda: player.status is Status.RECONNECTING)
                publisher.epoch += 1  # a key frame that nobody on that line will see
                await asyncio.sleep(0.2)
                door.open = True
                await eventually(lambda: player.status is Status.CONNECTED, within=15)
            await playing
            publisher.tick(battle)
            await eventually(lambda: reader.room.seq == publisher.seq, within=15)
            assert (reader.state, reader.room.complete, reader.room.epoch) == (battle, True, 3)
            assert reader.stats.lost > 0
            assert reader.snapshots_asked >= 2


@pytest.mark.fault
async def test_a_server_that_restarts_is_forgotten_quickly(connect):
    async with NatsServer(sync_interval=None) as server:
        room, player = await connect(server.url), await connect(server.url)
        publisher, battle = room.state(ROOM, keyframe_every=10_000), a_battle()
        async with player.watch_state(ROOM) as reader:
            publisher.tick(battle)
            await eventually(lambda: reader.room.seq == 1)
            await server.kill()
            for _ in range(30):
                publisher.tick(battle)
                await asyncio.sleep(1 / 60)
            publisher.epoch = 1
            publisher.tick(battle)
            await server.start()
            for broker in (room, player):
                await eventually(lambda broker=broker: broker.status is Status.CONNECTED, within=15)
            battle["p0"]["hp"] = 1
            publisher.tick(battle)
            await eventually(lambda: reader.state == battle, within=10)
            assert (reader.room.seq, reader.room.complete) == (publisher.seq, True)


@pytest.mark.fault
async def test_a_frozen_server_does_not_hold_up_a_tick(connect):
    async with NatsServer(sync_interval=None) as server:
        room = await connect(server.url, outbound_limit=256 << 10)
        publisher, battle, worst = room.state(ROOM), a_battle(), 0.0
        publisher.tick(battle)
        await room.flush()
        await server.freeze()
        for step in range(300):
            # More in all than the kernel buffers for a loopback socket.
            battle["p0"]["text"] = f"{step:04}" * 12_500
            before = time.perf_counter()
            publisher.tick(battle)
            worst = max(worst, time.perf_counter() - before)
            await asyncio.sleep(1 / 240)
        assert worst < 0.5, f"worst tick {worst * 1000:.1f} ms"
        assert room.stats.dropped_outbound > 0
        await server.thaw()


@pytest.mark.fault
@pytest.mark.timeout(60)
async def test_a_room_opened_while_the_server_is_frozen_answers_once_it_is_not(connect):
    async with NatsServer(sync_interval=None) as server:
        hosts = [await connect(server.url) for _ in range(4)]
        await server.freeze()
        rooms = [host.state(f"battle.{number}.state") for number, host in enumerate(hosts)]
        # Until the subscription's confirmation has timed out for at least one: not long enough to lose the connection.
        await asyncio.sleep(7)
        await server.thaw()
        for room in rooms:
            room.tick({"ann": {"x": 1}})
        player = await connect(server.url)

        async def answered(room):
            try:
                return (await player.request(room.snapshot_subject, [1, 0], timeout=1)).json()
            except RequestError:
                return False

        for room in rooms:
            await eventually(lambda room=room: answered(room), within=20)


async def test_an_owner_killed_and_started_again_under_its_epoch_is_followed(connect, nats_server):
    player, runs = await connect(), []

    async def start(run):
        runs.append(
            await asyncio.create_subprocess_exec(sys.executable, "-c", OWNER, nats_server.url, str(run), stderr=PIPE)
        )

    try:
        async with player.watch_state(ROOM) as reader:
            for run in (1, 2):
                await start(run)
                await eventually(lambda run=run: reader.state and reader.state["run"] == run, within=15)
                await eventually(lambda: reader.room.seq > 20, within=15)
                runs[-1].kill()
                await runs[-1].wait()
            events = [event.body for event in (await anext(reader)).events]
            assert events == [[run, tick] for run, tick in sorted(map(tuple, events))]
            assert (reader.room.epoch, reader.stats.lost, reader.stats.stale) == (1, 0, 0)
    finally:
        for run in runs:
            if run.returncode is None:
                run.kill()
            await run.communicate()


async def test_who_may_not_ask_is_healed_by_key_frames(connect, caplog):
    spectator = 'permissions: { publish: ["nothing"], subscribe: ["battle.*.state", "_INBOX.>"] }'
    users = f"{{ user: owner, password: p }}, {{ user: spectator, password: p, {spectator} }}"
    async with NatsServer(sync_interval=None, config=f"authorization {{ users: [ {users} ] }}") as server:
        room = await connect(server.url, user="owner", password="p")
        player = await connect(server.url, user="spectator", password="p")
        publisher, battle = room.state(ROOM, keyframe_every=5), a_battle()
        publisher.tick(battle)
        await room.flush()
        with caplog.at_level(logging.WARNING, "broker.state"):
            async with player.watch_state(ROOM) as reader:
                await eventually(lambda: "only key frames" in caplog.text)
                assert reader.state is None
                for _ in range(5):
                    publisher.tick(battle)
                await eventually(lambda: reader.room.seq == 6)
                assert (reader.state, reader.snapshots_asked) == (battle, 1)
        assert caplog.text.count("only key frames") == 1


async def test_cancelled_at_any_await_it_leaves_nothing_behind(connect):
    sb = await connect()
    tasks, runs = asyncio.all_tasks(), []

    async def work():
        async with (
            sb.state(ROOM) as room,
            sb.watch_state("battle.*.state") as spectator,
            sb.watch_state(ROOM) as reader,
        ):
            room.tick(a_battle())
            return (await anext(reader)).state == (await anext(spectator)).state

    async with aclosing(cancelled_everywhere(work)) as attempts:
        async for run in attempts:
            runs.append(run)
            await eventually(lambda: asyncio.all_tasks() <= tasks)
            assert not sb._roster.drainables
            assert not sb._roster.subscriptions
    assert runs[-1].result
    assert len(runs) > 4
