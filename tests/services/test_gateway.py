"""Gateways with rooms on a real server: counted on the wire, restarted in the middle, drained."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import Counter

import msgspec
import pytest

from broker import Broker, InvalidSubject, Message, StreamBroker
from broker.server import NatsServer
from broker.testing.waiting import eventually
from services.children import Children
from services.demo.evidence import records
from services.events import (
    BATTLE_COMMANDS,
    COMMAND_BURST,
    SETTLEMENTS,
    CommandBatch,
    battle_state,
    command_sender,
    gateway_input,
    gateway_output,
)
from services.game_room.commands import Ruling
from services.game_room.room import Room
from services.game_room.service import RoomHost, RoomService
from services.gateway.entrance import ROOMS_EACH, Entrance
from services.gateway.gateway import Gateway
from services.gateway.newest import Newest
from services.history import History
from services.pacing import Lateness

pytestmark = pytest.mark.nats

WAIT = 15.0
PLAYERS = [f"p{n}" for n in range(1, 11)]


def raw(seq: int, player: str, tick: int = 0) -> bytes:
    return msgspec.json.encode({"player": player, "cmd_seq": seq, "client_tick": tick, "kind": "move", "dx": 1})


@pytest.fixture
async def server(tmp_path):
    async with NatsServer(tmp_path / "store") as started:
        yield started


@pytest.fixture
async def live(server):
    async with StreamBroker.connect(server.url) as connected:
        await connected.declare(SETTLEMENTS)
        yield connected


@pytest.fixture
async def gateway(server):
    """A gateway that runs, on a connection of its own."""
    async with Broker.connect(server.url) as own:
        running_gateway, stop = Gateway(own, "g1"), asyncio.Event()
        running = asyncio.ensure_future(running_gateway.run(stop))
        await asyncio.wait_for(running_gateway.ready.wait(), WAIT)
        yield running_gateway
        stop.set()
        await asyncio.wait_for(running, WAIT)


@pytest.fixture
async def rooms(live):
    """A process's worth of two rooms, at thirty ticks a second."""
    hosts = [
        RoomHost(
            live,
            Room(name, PLAYERS, seed=1, epoch=1, tick_rate=30, battle_ticks=100_000),
            start=time.monotonic(),
            tick_rate=30,
            history=History(None),
            lateness=Lateness(),
        )
        for name in ("r1", "r2")
    ]
    service, stop = RoomService(live, hosts, Lateness()), asyncio.Event()
    running = asyncio.ensure_future(service.run(stop, grace=WAIT))
    yield hosts
    stop.set()
    await asyncio.wait_for(running, WAIT)


async def test_a_room_gets_one_message_a_tick_with_all_its_players_commands(live, gateway):
    batches: list[tuple[str, CommandBatch]] = []

    def note(message: Message) -> None:
        room, sender = command_sender(message.subject)
        assert sender == "@g1"
        batches.append((room, message.decode(CommandBatch)))

    await live.subscribe(BATTLE_COMMANDS, note)
    names = [f"r{n}" for n in range(1, 6)]
    sessions = [gateway.join(room, player, id) for room in names for player in PLAYERS]
    for seq in (1, 2, 3):
        for session in sessions:
            session.command(raw(2 * seq - 1, session.player))
            session.command(raw(2 * seq, session.player))
        await eventually(lambda seq=seq: len(batches) >= seq * len(names), WAIT)
    assert Counter(room for room, _ in batches) == dict.fromkeys(names, 3)
    for room in names:
        lots = [batch.commands for name, batch in batches if name == room]
        assert [[player for player, _ in lot] for lot in lots] == [[p for p in PLAYERS for _ in (1, 2)]] * 3
        for player in PLAYERS:
            assert [c.cmd_seq for lot in lots for name, c in lot if name == player] == [1, 2, 3, 4, 5, 6]
    assert gateway.batches == len(batches)


async def test_however_often_players_send_a_room_gets_no_more_messages_than_ticks(live, gateway):
    dues: list[int] = []
    await live.subscribe(BATTLE_COMMANDS, lambda message: dues.append(message.decode(CommandBatch).due))
    session = gateway.join("r1", "p1", id)
    for seq in range(1, 201):
        session.command(raw(seq, "p1"))
        await asyncio.sleep(0.005)
    await eventually(lambda: len(dues) == gateway.batches, WAIT)
    assert len(dues) > 5
    # A thirtieth of a second apart, by the gateway's schedule, whatever this machine does meanwhile.
    assert min(later - earlier for earlier, later in itertools.pairwise(dues)) >= 33_333_000


async def test_players_see_their_room_and_their_commands_are_taken(gateway, rooms):
    views, numbers = {}, {}

    def see_as(room: str, player: str):
        return lambda view: views.__setitem__((room, player), view)

    sessions = [gateway.join(room, player, see_as(room, player)) for room in ("r1", "r2") for player in PLAYERS]
    await eventually(lambda: len(views) == 20, WAIT)
    for session in sessions:
        key = (session.room, session.player)
        numbers[key] = 1
        session.command(raw(1, session.player, views[key].tick))
    await eventually(lambda: all(views[key].acked(key[1]) == 1 for key in views), WAIT)
    for host in rooms:
        assert host.room.intake.counts == {Ruling.ACCEPTED: 10}
    assert views["r1", "p1"].room == "r1"
    assert views["r1", "p1"] is views["r1", "p10"], "decoded once for all"
    assert gateway.totals()["received"] >= 2


async def test_a_slow_connection_sees_the_newest_and_the_others_every_frame(gateway, rooms):
    slow, ticks = Newest(), []
    gateway.join("r1", "p1", slow.put)
    gateway.join("r1", "p2", lambda view: ticks.append(view.tick))
    await eventually(lambda: len(ticks) >= 10, WAIT)
    seen = await asyncio.wait_for(anext(slow), WAIT)
    assert seen.tick == ticks[-1]
    assert slow.superseded == len(ticks) - 1
    assert ticks == sorted(set(ticks))
    assert rooms[0].frames >= len(ticks)


async def test_names_that_cannot_stand_in_a_subject_do_not_come_in(gateway):
    for room, player in (("r.1", "p1"), ("r1", "@g"), ("r1", "*"), ("", "p1")):
        with pytest.raises(InvalidSubject):
            gateway.join(room, player, id)


@pytest.mark.fault
@pytest.mark.timeout(60)
async def test_gateway_and_room_go_on_when_the_server_is_restarted(server, gateway, rooms, caplog):
    caplog.set_level(logging.CRITICAL)
    views, seq = {}, 0
    session = gateway.join("r1", "p1", lambda view: views.__setitem__("newest", view))
    await eventually(lambda: views, WAIT)
    await server.kill()
    await eventually(lambda: gateway._broker.status != "connected", WAIT)
    for _ in range(30):
        seq += 1
        session.command(raw(seq, "p1", views["newest"].tick))
        await asyncio.sleep(0.01)
    await eventually(lambda: gateway.unsent > 0, WAIT)
    sent_before, ticks_before = gateway.batches, rooms[0].pacer.run
    await server.start()
    stale = views["newest"].tick
    await eventually(lambda: views["newest"].tick > stale + 30, WAIT)
    assert rooms[0].pacer.run > ticks_before
    accepted = rooms[0].room.intake.counts[Ruling.ACCEPTED]
    seq += 1
    session.command(raw(seq, "p1", views["newest"].tick))
    await eventually(lambda: views["newest"].acked("p1") == seq, WAIT)
    assert gateway.batches > sent_before
    assert rooms[0].room.intake.counts[Ruling.ACCEPTED] > accepted
    assert views["newest"].epoch == 1


async def test_a_nats_client_s_player_joins_with_a_first_command_and_leaves_by_saying_nothing(live, gateway, rooms):
    seen = []
    await live.subscribe(gateway_output("g1", "r1", "p1"), lambda message: seen.append(message.json()))
    entrance = Entrance(live, gateway, "g1", quiet_after=1.0)
    async with entrance.opened():
        live.publish_nowait(gateway_input("g1", "r1", "p1"), raw(1, "p1"))
        live.publish_nowait(gateway_input("g1", "r1", "p2"), raw(1, "p1"))
        live.publish_nowait("gateway.g1.in.r1.@g1", raw(1, "@g1"))
        await eventually(lambda: seen and seen[-1]["state"]["player.p1"]["ack"] == 1, WAIT)
        assert entrance.turned_away == 1
        assert gateway.totals()["passings"] == {"passed": 1, "forged": 1}
        await eventually(lambda: entrance.quiet == 1, WAIT)
        assert gateway.totals()["sessions"] == 0
    assert rooms[0].room.intake.counts == {Ruling.ACCEPTED: 1}


async def test_junk_brings_nobody_in_and_one_player_is_in_two_rooms_at_most(live, gateway):
    entrance = Entrance(live, gateway, "g1")
    async with entrance.opened():
        for n in range(50):
            live.publish_nowait(gateway_input("g1", f"junk{n}", "eve"), b"junk")
        for n in range(50):
            live.publish_nowait(gateway_input("g1", f"real{n}", "eve"), raw(1, "eve"))
        live.publish_nowait(gateway_input("g1", "r1", "alice"), raw(1, "alice"))
        await eventually(lambda: gateway.totals()["passings"].get("passed") == ROOMS_EACH + 1, WAIT)
        assert gateway.totals()["passings"] == {"malformed": 50, "passed": ROOMS_EACH + 1}
        assert entrance.turned_away == 50 - ROOMS_EACH
        assert gateway.totals()["sessions"] == ROOMS_EACH + 1


async def test_junk_keeps_nobody_in_and_a_room_left_makes_way_for_another(live, gateway):
    entrance = Entrance(live, gateway, "g1", quiet_after=1.0)
    async with entrance.opened():
        for n in range(ROOMS_EACH):
            live.publish_nowait(gateway_input("g1", f"r{n}", "eve"), raw(1, "eve"))
        async with asyncio.timeout(WAIT):
            while entrance.quiet < ROOMS_EACH:
                live.publish_nowait(gateway_input("g1", "r0", "eve"), b"junk")
                await asyncio.sleep(0.05)
        live.publish_nowait(gateway_input("g1", "r9", "eve"), raw(1, "eve"))
        await eventually(lambda: gateway.totals()["passings"]["passed"] == ROOMS_EACH + 1, WAIT)
    assert gateway.totals()["passings"]["malformed"] > 0


async def test_a_burst_in_hand_is_sent_before_a_gateway_ends(live, server):
    numbers: list[int] = []

    def note(message: Message) -> None:
        numbers.extend(command.cmd_seq for _, command in message.decode(CommandBatch).commands)

    await live.subscribe(BATTLE_COMMANDS, note)
    async with Broker.connect(server.url) as own:
        ending, stop = Gateway(own, "g2", tick_rate=1.0), asyncio.Event()
        session = ending.join("r1", "p1", id)
        for seq in range(1, COMMAND_BURST + 1):
            session.command(raw(seq, "p1"))
        stop.set()
        await asyncio.wait_for(ending.run(stop), WAIT)
    await eventually(lambda: len(numbers) == COMMAND_BURST, WAIT)
    assert numbers == list(range(1, COMMAND_BURST + 1))


async def test_who_speaks_again_takes_the_place_back_from_the_player_s_other_connection(live, gateway, rooms):
    assert rooms
    entrance, seen = Entrance(live, gateway, "g1"), []
    async with entrance.opened():
        live.publish_nowait(gateway_input("g1", "r1", "p1"), raw(1, "p1"))
        await eventually(lambda: gateway.totals()["passings"] == {"passed": 1}, WAIT)
        other = gateway.join("r1", "p1", seen.append)
        live.publish_nowait(gateway_input("g1", "r1", "p1"), raw(2, "p1"))
        await eventually(lambda: entrance.turned_away == 1, WAIT)
        live.publish_nowait(gateway_input("g1", "r1", "p1"), raw(3, "p1"))
        await eventually(lambda: gateway.totals()["passings"] == {"passed": 2}, WAIT)
        assert other.command(raw(4, "p1")) is None
        assert gateway.totals()["sessions"] == 1


async def test_a_message_too_large_for_the_server_costs_its_own_room_only(tmp_path):
    async with NatsServer(tmp_path / "small", max_payload=4096) as small, Broker.connect(small.url) as own:
        busy, stop = Gateway(own, "g1"), asyncio.Event()
        running = asyncio.ensure_future(busy.run(stop))
        large = [busy.join("r1", f"p{n}", id) for n in range(20)]
        other = busy.join("r2", "p1", id)
        for session in large:
            session.command(raw(1, session.player).ljust(500))
        other.command(raw(1, "p1"))
        await eventually(lambda: busy.unsent == 20 and busy.batches == 1, WAIT)
        stop.set()
        await asyncio.wait_for(running, WAIT)


@pytest.mark.timeout(60)
async def test_sigterm_drains_a_gateway_process(server, live, rooms, tmp_path):
    assert rooms
    with Children(tmp_path, server.url) as children:
        record = tmp_path / "gateway.jsonl"
        process = children.start("gateway", "services.gateway", "--name", "g9", "--stats", str(record))
        await process.ready(WAIT)
        async with live.watch_state(battle_state("r2")) as reader:
            live.publish_nowait(gateway_input("g9", "r2", "p3"), raw(1, "p3", (await anext(reader)).tick))
            await eventually(lambda: reader.state["player.p3"]["ack"] == 1, WAIT)
        assert await children.drain([process], WAIT) == []
    final = records(record)[-1]
    assert (final["op"], final["passings"], final["batches"]) == ("final", {"passed": 1}, 1)
    assert final["lost"] == final["errors"] == final["unsent"] == 0
