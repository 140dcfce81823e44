"""How each operation that a role needs is tried on a real server: the functions that ``tests.permissions`` names."""

from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple
from uuid import uuid4

from broker import StreamBroker
from broker.testing.waiting import eventually
from services.events import ALL_CONSUMERS, AUDIT
from tests.deployment import declare_as
from tests.permissions import MINE, PLAYER, STREAMS, WORKERS

FRAME, COMMAND = "battle.room-1.state", f"battle.room-1.cmd.{MINE}"
BATCH, IN, OUT = (
    "battle.room-1.cmd.@gateway-1",
    f"gateway.gateway-1.in.room-1.{MINE}",
    f"gateway.gateway-1.out.room-1.{MINE}",
)
SUBJECTS = {"SETTLEMENTS": "battle.settle", "LEADERBOARD": "leaderboard.update", "MAIL": "mail.ann", "AUDIT": "audit.x"}


@asynccontextmanager
async def working(sb, role, handler, **options):
    """The role at work on its own consumer, as its service is: bound, nothing asked."""
    stream = WORKERS[role]
    consumption = await sb.consume(
        next(each.filters[0] for each in ALL_CONSUMERS if each.stream == stream),
        handler,
        durable=STREAMS[stream],
        stream=stream,
        ensure="bind",
        **options,
    )
    yield consumption
    await consumption.drain()


async def settled(admin, role):
    stream = WORKERS[role]
    info = await admin.consumers.info(stream, STREAMS[stream])
    return not (info.pending or info.ack_pending or info.redelivered)


async def reaches(sender, sent, hearer, pattern):
    """What one sends, the other hears, as it was sent."""
    heard = []
    subscription = await hearer.subscribe(pattern, heard.append)
    await sender.publish(sent, b'{"n":1}')
    await eventually(lambda: heard)
    await subscription.unsubscribe()
    assert [(each.subject, each.data) for each in heard] == [(sent, b'{"n":1}')]


class Scene(NamedTuple):
    """What an operation is tried with: the role, who connects as any role, and the admin."""

    role: str
    as_role: Callable[[str], Awaitable[StreamBroker]]
    admin: StreamBroker


async def frame_to_gateway(scene):
    await reaches(await scene.as_role("room"), FRAME, await scene.as_role("gateway"), "battle.*.state")


async def frame_to_player(scene):
    await reaches(await scene.as_role("room"), FRAME, await scene.as_role(PLAYER), FRAME)


async def commands_of_gateway(scene):
    await reaches(await scene.as_role("gateway"), BATCH, await scene.as_role("room"), "battle.*.cmd.*")


async def command_of_player(scene):
    await reaches(await scene.as_role(PLAYER), COMMAND, await scene.as_role("room"), "battle.*.cmd.*")


async def player_to_gateway(scene):
    await reaches(await scene.as_role(PLAYER), IN, await scene.as_role("gateway"), "gateway.gateway-1.in.*.*")


async def view_to_player(scene):
    await reaches(await scene.as_role("gateway"), OUT, await scene.as_role(PLAYER), OUT)


async def dashboard_frames(scene):
    await reaches(await scene.as_role("room"), FRAME, await scene.as_role("dashboard"), "battle.*.state")


async def snapshot(scene):
    room, gateway = await scene.as_role("room"), await scene.as_role("gateway")
    async with room.state(FRAME, epoch=1) as publisher:
        publisher.tick({"battle": {"id": "b"}})
        await room.flush()
        async with gateway.watch_state("battle.*.state") as reader:
            publisher.tick({"battle": {"id": "c"}})  # a delta: what it is a delta to has to be asked for
            await eventually(lambda: FRAME in reader.rooms and reader.rooms[FRAME].state == {"battle": {"id": "c"}}, 15)
            assert reader.snapshots_asked


async def store_result(scene):
    room = await scene.as_role("room")
    key = uuid4().hex
    first = await room.enqueue("battle.settle", b"{}", idempotency_key=key)
    again = await room.enqueue("battle.settle", b"{}", idempotency_key=key)
    assert (first.stream, first.duplicate, again.duplicate) == ("SETTLEMENTS", False, True)


async def work(scene):
    sb, seen = await scene.as_role(scene.role), []

    async def handle(msg):
        await msg.ack(confirm=True)
        seen.append(msg.sequence)

    async with working(sb, scene.role, handle):
        for _ in range(3):
            await scene.admin.enqueue(SUBJECTS[WORKERS[scene.role]], b"{}")
        await eventually(lambda: len(seen) == 3)
    assert await settled(scene.admin, scene.role)


async def give_back(scene):
    sb, attempts = await scene.as_role(scene.role), []

    async def handle(msg):
        attempts.append(msg.attempt)
        if msg.attempt == 1:
            await msg.nak(delay=0)

    async with working(sb, scene.role, handle):
        await scene.admin.enqueue(SUBJECTS[WORKERS[scene.role]], b"{}")
        await eventually(lambda: attempts == [1, 2])
        await eventually(lambda: settled(scene.admin, scene.role))


async def prolong(scene):
    sb, done = await scene.as_role(scene.role), []

    async def handle(msg):
        await msg.in_progress()
        await sb.flush()
        done.append(msg)

    async with working(sb, scene.role, handle):
        await scene.admin.enqueue(SUBJECTS[WORKERS[scene.role]], b"{}")
        await eventually(lambda: done)


async def dead_letter(scene):
    sb = await scene.as_role(scene.role)

    async def handle(_):
        raise ValueError("never")

    before = sb.stats.terminated
    async with working(sb, scene.role, handle, max_deliver=1):
        await scene.admin.enqueue(SUBJECTS[WORKERS[scene.role]], b"{}")
        await eventually(lambda: sb.stats.terminated == before + 1)
    [letter] = [each async for each in scene.admin.dead_letters.list()]
    assert (letter.stream, letter.consumer, letter.error) == (
        WORKERS[scene.role],
        STREAMS[WORKERS[scene.role]],
        "never",
    )


async def large_dead_letter(scene):
    sb = await scene.as_role(scene.role)

    async def handle(_):
        raise ValueError("never")

    before = sb.stats.terminated
    async with working(sb, scene.role, handle, max_deliver=1):
        await scene.admin.enqueue(SUBJECTS[WORKERS[scene.role]], b"x" * ((1 << 20) - 200))
        await eventually(lambda: sb.stats.terminated == before + 1)
    [letter] = [each async for each in scene.admin.dead_letters.list()]
    assert not letter.complete


async def give_points(scene):
    assert (await (await scene.as_role(scene.role)).enqueue("leaderboard.update", b"{}")).stream == "LEADERBOARD"


async def send_mail(scene):
    assert (await (await scene.as_role(scene.role)).enqueue("mail.ann", b"{}")).stream == "MAIL"


async def audit_record(scene):
    assert (await (await scene.as_role(scene.role)).enqueue(f"audit.{scene.role}", b"{}")).stream == "AUDIT"


async def describe(scene):
    dashboard = await scene.as_role("dashboard")
    names = {info.name async for info in dashboard.streams.list()}
    assert names == {*STREAMS, "GAMEBROKER_DEAD_LETTERS"}
    assert {name async for name in dashboard.streams.names()} == names
    assert (await dashboard.streams.info("MAIL")).config.subjects == ("mail.*",)
    for stream, consumer in STREAMS.items():
        assert [info.name async for info in dashboard.consumers.list(stream)] == [consumer]
        assert (await dashboard.consumers.info(stream, consumer)).pending == 0


async def advisories(scene):
    dashboard, heard = await scene.as_role("dashboard"), []
    await dashboard.subscribe("$JS.EVENT.ADVISORY.>", heard.append)
    worker = await scene.as_role("mail")

    async def handle(msg):
        await msg.term("seen")

    async with working(worker, "mail", handle, dead_letter=False):
        await scene.admin.enqueue("mail.ann", b"{}")
        await eventually(lambda: any("MSG_TERMINATED" in each.subject for each in heard))


async def own_permissions(scene):
    told = (await (await scene.as_role(scene.role)).request("$SYS.REQ.USER.INFO", b"")).json()["data"]
    assert (told["user"], told["account"]) == (scene.role, "GAME")


async def declare_all(scene):
    await declare_as(scene.admin)


async def dead_letters(scene):
    settlement = await scene.as_role("settlement")

    async def handle(_):
        raise ValueError("never")

    async with working(settlement, "settlement", handle, max_deliver=1):
        for number in range(2):
            await scene.admin.enqueue("battle.settle", b"%d" % number)
        await eventually(lambda: settlement.stats.terminated == 2)
    first, second = [each async for each in scene.admin.dead_letters.list()]
    assert await scene.admin.dead_letters.replay(first) == 1
    assert await scene.admin.dead_letters.discard(second, "seen to")
    assert [each async for each in scene.admin.dead_letters.list()] == []
    assert (await scene.admin.streams.info("SETTLEMENTS")).messages == 3


async def delete(scene):
    await scene.admin.enqueue("audit.x", b"{}")
    assert await scene.admin.streams.purge("AUDIT") == 1
    await scene.admin.streams.delete("AUDIT")
    await scene.admin.declare(AUDIT)
    await scene.admin.consumers.ensure(next(each for each in ALL_CONSUMERS if each.stream == "AUDIT"))


HOW = {
    each.__name__: each
    for each in (
        *(frame_to_gateway, frame_to_player, commands_of_gateway, command_of_player, player_to_gateway, view_to_player),
        *(dashboard_frames, snapshot, store_result, work, give_back, prolong, dead_letter, large_dead_letter),
        *(give_points, send_mail, audit_record, describe, advisories, own_permissions, dead_letters, delete),
    )
} | {"declare": declare_all}
