from __future__ import annotations

import asyncio
import time

import msgspec
import pytest

from broker import EnqueueUnknown, PermissionDenied
from services.demo.evidence import records
from services.events import BATTLE_SETTLE, BattleEnded, Command, battle_command, battle_state
from services.game_room.commands import Ruling
from services.game_room.room import Room
from services.game_room.service import RoomHost, RoomService
from services.history import History
from services.pacing import Lateness

RATE = 200
"""Ticks per second: tests have no time for thirty."""


@pytest.fixture
def history(tmp_path):
    with History(tmp_path / "rooms.jsonl") as open_history:
        yield open_history


def make_host(sb, history, *, room: str = "r1", battle_ticks: int = 20) -> RoomHost:
    rules = Room(room, ["p1", "p2"], seed=1, epoch=9, tick_rate=RATE, battle_ticks=battle_ticks)
    return RoomHost(sb, rules, start=time.monotonic(), tick_rate=RATE, history=history, lateness=Lateness())


def service(sb, *hosts: RoomHost) -> RoomService:
    return RoomService(sb, hosts, Lateness())


async def results(sb) -> list[BattleEnded]:
    async with sb.read(BATTLE_SETTLE, start="first", until="end") as messages:
        return [msgspec.json.decode(message.data, type=BattleEnded) async for message in messages]


async def test_battles_follow_each_other_and_every_end_is_recorded_and_stored(sb, history, tmp_path, eventually):
    battles: set[str] = set()
    stop = asyncio.Event()
    host = make_host(sb, history)
    async with sb.watch_state(battle_state("r1")) as reader:

        async def watch() -> None:
            async for update in reader:
                battles.add(update.state["battle"]["id"])

        watching = asyncio.ensure_future(watch())
        running = asyncio.ensure_future(service(sb, host).run(stop, grace=5.0))
        await eventually(lambda: len(battles) >= 4)
        stop.set()
        await running
        await eventually(lambda: reader.room.seq == host.frames)
        watching.cancel()
        await asyncio.wait({watching})
        assert (reader.stats.received, reader.stats.lost) == (host.frames, 0)
    stored = await results(sb)
    written = records(tmp_path / "rooms.jsonl")
    assert [line["battle_id"] for line in written if line["op"] == "ended"] == [each.battle_id for each in stored]
    assert [line["op"] for line in written] == ["ended", "stored"] * len(stored)
    assert battles == {each.battle_id for each in stored}
    assert host.pacer.planned == host.pacer.run + host.pacer.skipped


async def test_commands_are_ruled_on_and_shown_in_the_frames(sb, history):
    stop = asyncio.Event()
    host = make_host(sb, history, battle_ticks=10_000)
    process = service(sb, host)
    running = asyncio.ensure_future(process.run(stop, grace=5.0))
    async with sb.watch_state(battle_state("r1")) as reader:
        first = await anext(reader)
        good = Command(player="p1", cmd_seq=3, client_tick=first.tick, kind="move", dx=1)
        for subject, body in (
            (battle_command("r1", "p1"), good),
            (battle_command("r1", "p1"), good),
            (battle_command("r1", "p2"), good),
            (battle_command("r1", "p1"), b"garbage"),
            (battle_command("r1", "p1"), {"player": "p1", "cmd_seq": -1, "client_tick": 0, "kind": "move"}),
            (battle_command("r1", "p1"), b" " * 1000),
            (battle_command("r2", "p1"), good),
        ):
            sb.publish_nowait(subject, body)
        async with asyncio.timeout(5):
            while (await anext(reader)).state["player.p1"]["ack"] != 3:
                pass
        stop.set()
        await running
    assert host.room.intake.counts == {
        Ruling.ACCEPTED: 1,
        Ruling.DUPLICATE: 1,
        Ruling.FORGED: 1,
        Ruling.MALFORMED: 2,
        Ruling.OVERSIZED: 1,
    }
    told = process.totals()
    assert told["commands"] == {"accepted": 1, "duplicate": 1, "forged": 1, "malformed": 2, "oversized": 1}
    assert (told["direct"], told["batches"], told["elsewhere"]) == (6, 0, 1)


async def test_one_subscription_serves_all_rooms_of_the_process(sb, history, monkeypatch):
    subscribe, patterns = sb.subscribe, []

    async def noted(subject, *given, **options):
        patterns.append(subject)
        return await subscribe(subject, *given, **options)

    monkeypatch.setattr(sb, "subscribe", noted)
    stop = asyncio.Event()
    hosts = [make_host(sb, history, room=f"r{n}", battle_ticks=10_000) for n in range(5)]
    running = asyncio.ensure_future(service(sb, *hosts).run(stop, grace=5.0))
    await asyncio.sleep(0.05)
    stop.set()
    await running
    assert patterns == ["battle.*.cmd.*"]


async def test_an_unknown_outcome_is_tried_again_with_the_same_key_and_the_loop_goes_on(
    sb, history, tmp_path, monkeypatch
):
    enqueue, keys = sb.enqueue, []

    async def unsure(subject, body, *, idempotency_key, timeout):
        keys.append(idempotency_key)
        receipt = await enqueue(subject, body, idempotency_key=idempotency_key, timeout=timeout)
        if len(keys) < 3:
            raise EnqueueUnknown("no word", idempotency_key=idempotency_key, subject=subject)
        return receipt

    monkeypatch.setattr(sb, "enqueue", unsure)
    stop = asyncio.Event()
    host = make_host(sb, history, battle_ticks=10_000)
    running = asyncio.ensure_future(service(sb, host).run(stop, grace=10.0))
    await asyncio.sleep(0.1)
    stop.set()
    await running
    assert keys == ["r1-9-1"] * 3
    assert host.retries == 2
    assert [each.battle_id for each in await results(sb)] == ["r1-9-1"]
    [stored] = [line for line in records(tmp_path / "rooms.jsonl") if line["op"] == "stored"]
    assert stored["duplicate"] is True
    assert host.pacer.run > 20


async def test_a_result_that_may_not_be_stored_ends_the_process(sb, history, monkeypatch):
    async def refused(*_: object, **__: object):
        raise PermissionDenied(verb="publish", subject=BATTLE_SETTLE)

    monkeypatch.setattr(sb, "enqueue", refused)
    with pytest.raises(ExceptionGroup) as raised:
        await service(sb, make_host(sb, history)).run(asyncio.Event(), grace=1.0)
    assert raised.group_contains(PermissionDenied)


async def test_a_room_that_cannot_finish_in_time_says_so(sb, history, monkeypatch):
    async def never(*_: object, **__: object):
        await asyncio.Event().wait()

    monkeypatch.setattr(sb, "enqueue", never)
    stop = asyncio.Event()
    stop.set()
    with pytest.raises(TimeoutError, match="1 rooms could not"):
        await service(sb, make_host(sb, history)).run(stop, grace=0.2)


async def test_a_slow_server_is_waited_for(sb, history, monkeypatch):
    enqueue = sb.enqueue

    async def slow(*given, **options):
        await asyncio.sleep(1.5)
        return await enqueue(*given, **options)

    monkeypatch.setattr(sb, "enqueue", slow)
    stop = asyncio.Event()
    stop.set()
    await service(sb, make_host(sb, history)).run(stop, grace=15.0)
    assert len(await results(sb)) == 1


async def test_a_process_is_ready_when_its_subscription_is(sb, history, monkeypatch):
    subscribe, gate = sb.subscribe, asyncio.Event()

    async def held(*given, **options):
        await gate.wait()
        return await subscribe(*given, **options)

    monkeypatch.setattr(sb, "subscribe", held)
    stop = asyncio.Event()
    process = service(sb, make_host(sb, history))
    running = asyncio.ensure_future(process.run(stop, grace=5.0))
    await asyncio.sleep(0.1)
    assert not process.ready.is_set()
    gate.set()
    await asyncio.wait_for(process.ready.wait(), 5)
    stop.set()
    await running
