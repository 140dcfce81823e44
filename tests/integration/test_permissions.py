"""Every operation of every role on a real server with the shipped configuration: what is needed works, all else not.

``python -m tests.integration.test_permissions`` writes docs/permissions.md anew.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import NamedTuple
from uuid import uuid4

import pytest
import pytest_asyncio

from broker import ConnectError, JetStreamNotEnabled, PermissionDenied, StreamBroker, Unauthorized
from broker.testing.waiting import eventually
from services.events import ALL_CONSUMERS, AUDIT
from tests.deployment import NATS, ROLES, TOP, declare, declare_as, shipped_server, single
from tests.permissions import DENIED, MINE, NEEDED, OTHERS, PLAYER, STREAMS, WORKERS, page

pytestmark = [pytest.mark.nats, pytest.mark.timeout(60), pytest.mark.xdist_group("shipped")]
PAGE = TOP / "docs" / "permissions.md"
FRAME, COMMAND = "battle.room-1.state", f"battle.room-1.cmd.{MINE}"
BATCH, IN, OUT = (
    "battle.room-1.cmd.@gateway-1",
    f"gateway.gateway-1.in.room-1.{MINE}",
    f"gateway.gateway-1.out.room-1.{MINE}",
)
SUBJECTS = {"SETTLEMENTS": "battle.settle", "LEADERBOARD": "leaderboard.update", "MAIL": "mail.ann", "AUDIT": "audit.x"}


@pytest.fixture(scope="module")
def server(secrets):
    """For all operations: what is denied changes nothing, and what is needed cleans up after itself."""
    with shipped_server(secrets) as node:
        yield node


class Roles:
    """Connects as a role, once.

    Attributes:
        denied: what the server denied to any of them.
    """

    def __init__(self, server, secrets, link):
        self._server, self._secrets, self._link = server, secrets, link
        self._opened = {}
        self.denied = []

    async def __call__(self, role):
        if role not in self._opened:
            self._opened[role] = await self._secrets.connect(self._server, role, link=self._link)
            self._opened[role]._backend.board.denials.watch(self.denied.append)
        return self._opened[role]

    async def close(self):
        for each in self._opened.values():
            await each.aclose()


@pytest_asyncio.fixture
async def as_role(server, secrets, request):
    """By the link of a test that asks for links; closed after the test."""
    roles = Roles(server, secrets, request.getfixturevalue("link") if "link" in request.fixturenames else None)
    yield roles
    await roles.close()


@pytest_asyncio.fixture
async def admin(as_role):
    admin = await as_role("admin")
    yield admin
    await emptied(admin)


async def emptied(admin):
    """Nothing is left for whoever comes next."""
    async for info in admin.streams.list():
        if info.messages:
            await admin.streams.purge(info.name)


async def stored(admin):
    """All that could be changed: streams with their settings and counts, consumers with their positions."""
    streams = [(info.config, info.messages, info.state.last_sequence) async for info in admin.streams.list()]
    consumers = [
        (info.name, info.ack_floor, info.pending, info.ack_pending)
        for stream in STREAMS
        async for info in admin.consumers.list(stream)
    ]
    return streams, consumers


async def waiting(admin, stream):
    return (await admin.consumers.info(stream, STREAMS[stream])).pending == 1


# -- what is denied


@pytest.mark.parametrize("role", [*ROLES, PLAYER])
async def test_what_a_role_does_not_need_is_denied_by_name_and_changes_nothing(role, as_role, admin):
    """All of it on one connection: the server refuses in order, and has refused everything before it says so."""
    sb, told = await as_role(role), []
    await admin.enqueue(SUBJECTS["SETTLEMENTS"], b"{}")
    await eventually(lambda: waiting(admin, "SETTLEMENTS"))
    before = await stored(admin)
    sb._backend.board.denials.watch(told.append)
    tried = [each for each in DENIED if each.role == role]
    for operation in tried:
        if operation.verb == "publish":
            await sb.publish(operation.subject, b"{}")
        else:
            with suppress(PermissionDenied):
                await sb.subscribe(operation.subject, print)
    await sb.flush()
    assert [(each.verb, each.subject) for each in told] == [(each.verb, each.subject) for each in tried]
    assert await stored(admin) == before
    assert sb.status == "connected"


async def test_a_denied_request_fails_at_once(as_role):
    """It does not wait for its time-out."""
    sb = await as_role("leaderboard")
    async with asyncio.timeout(10):
        with pytest.raises(PermissionDenied):
            await sb.request("battle.settle", b"", timeout=50)


async def test_whoever_does_not_say_who_they_are_is_let_in_nowhere(server, secrets):
    for login in ({}, {"user": "room", "password": "wrong"}, {"user": "nobody", "password": "x"}, {"token": "x"}):
        with pytest.raises(Unauthorized):
            await StreamBroker.connect(server.url, tls=secrets.tls(), connect_timeout=10, **login)


async def test_without_the_authority_nobody_is_talked_to(server, secrets):
    """Not the other way round either: no password goes to a server that cannot show whose it is."""
    with pytest.raises(ConnectError, match="TLS failed"):
        await StreamBroker.connect(server.url, user="room", password=secrets.password("room"), connect_timeout=10)


async def test_a_player_reaches_nothing_else_whatever_its_permissions_say(secrets):
    """The account keeps them apart: here somebody gave a session everything."""
    node = single(secrets)
    narrow = (NATS / "players.conf").read_text()
    wide = 'users: [{ user: session-1, password: $SESSION_1_PASSWORD, permissions: { publish: ">", subscribe: ">" } }]'
    assert narrow in node.settings.text
    node.settings = replace(node.settings, text=node.settings.text.replace(narrow, wide))
    async with node:
        await declare(node, secrets)
        async with secrets.connect(node, PLAYER) as player, secrets.connect(node, "admin") as admin:
            heard = []
            await player.subscribe(">", lambda msg: heard.append(msg.subject))
            before = await stored(admin)
            tried = ["battle.settle", "leaderboard.update", "mail.ann", "$JS.API.STREAM.DELETE.MAIL"]
            for subject in tried:
                await player.publish(subject, b"{}")
            await player.flush()
            await eventually(lambda: set(tried) <= set(heard))
            assert await stored(admin) == before
            await admin.enqueue("mail.ann", b"{}")
            with pytest.raises(JetStreamNotEnabled):
                await player.streams.info("MAIL")
            await player.flush()
            assert heard.count("mail.ann") == 1, "its own, not the services'"


# -- what is needed


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


@pytest.mark.usefixtures("link")
@pytest.mark.parametrize("role", [*ROLES, PLAYER])
async def test_what_a_role_needs_works_and_nobody_is_denied_anything(role, as_role, admin):
    for operation in (each for each in NEEDED if each.role == role):
        try:
            await HOW[operation.how](Scene(role, as_role, admin))
            assert as_role.denied == []
        except Exception as error:
            error.add_note(f"{role}: {operation.what}")
            raise
        await emptied(admin)


# -- the table


def test_the_page_is_the_table():
    assert PAGE.read_text(encoding="utf-8") == page(), "write it anew: python -m tests.integration.test_permissions"


def test_every_role_is_in_the_table_both_ways():
    for operations in (DENIED, NEEDED):
        assert {each.role for each in operations} == {*ROLES, PLAYER}
    assert set(HOW) == {each.how for each in NEEDED}
    assert len(DENIED) + len(NEEDED) >= 77
    assert MINE != OTHERS


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
