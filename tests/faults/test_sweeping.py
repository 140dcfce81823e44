"""Sweeping under faults: each message the server gave up on becomes one letter, or somebody is told."""

import asyncio
from dataclasses import astuple

import pytest
import pytest_asyncio

from broker import ConnectionLost, Entry, PermissionDenied, RequestTimeout, StreamBroker, StreamOptions, Swept
from broker.server import Cluster, NatsServer
from broker.testing.conformance.scene import letters
from broker.testing.waiting import eventually
from tests.clusters import declared
from tests.limited import NOTICES, limited, worn_out

pytestmark = [pytest.mark.nats, pytest.mark.fault, pytest.mark.timeout(120)]

MANY = 60
ACK_WAIT = 1.0
KINDS = ["limits", "workqueue"]
ROLE = """
accounts {{ GAME {{
  jetstream: enabled
  users: [
    {{ user: admin, password: p }}
    {{ user: role, password: p, permissions: {{ publish: {publish}, subscribe: {{ allow: ["_INBOX.>"] }} }} }}
  ] }} }}
"""
STEPS = [
    "$JS.API.CONSUMER.MSG.NEXT.S.w",
    "$JS.API.STREAM.CREATE.GAMEBROKER_GIVEN_UP",
    "$JS.API.STREAM.MSG.GET.GAMEBROKER_GIVEN_UP",
    "$JS.API.STREAM.MSG.DELETE.GAMEBROKER_GIVEN_UP",
    "$JS.ACK.S.w.>",
    "gamebroker.dead.S.w",
]
NEEDED = [
    "$JS.API.STREAM.INFO.S",
    "$JS.API.STREAM.INFO.GAMEBROKER_GIVEN_UP",
    "$JS.API.STREAM.MSG.GET.GAMEBROKER_GIVEN_UP",
    "$JS.API.STREAM.MSG.DELETE.GAMEBROKER_GIVEN_UP",
    "$JS.API.CONSUMER.LIST.S",
    "$JS.API.CONSUMER.INFO.S.*",
    "$JS.API.CONSUMER.MSG.NEXT.S.*",
    "$JS.API.DIRECT.GET.S",
    "$JS.API.STREAM.MSG.GET.S",
    "$JS.ACK.S.>",
    "gamebroker.dead.S.*",
    "$JS.API.STREAM.INFO.GAMEBROKER_DEAD_LETTERS",
    "$JS.API.CONSUMER.*.GAMEBROKER_DEAD_LETTERS.>",
    "$JS.API.CONSUMER.MSG.NEXT.GAMEBROKER_DEAD_LETTERS.*",
]
"""What the documentation says a sweeping role needs, where both streams are there."""


async def given_up(sb, number, retention="limits", replicas=1):
    """Stream S with so many messages that the server has given up on, or will as soon as it is asked to decide."""
    await declared(sb, StreamOptions("S", ["s.>"], retention=retention, replicas=replicas))
    await limited(sb, ack_wait=ACK_WAIT)
    await sb.enqueue_many(Entry("s.a", n) for n in range(number))
    await worn_out(sb, number)


async def sweeping(sb):
    """Swept again and again until nothing is left, whatever is told meanwhile.

    A server that was killed may have forgotten what it handed out: then it does so again, and gives up again.
    """
    while True:
        try:
            swept = await sb.dead_letters.sweep("S")
            if swept.unknown:  # its notices died with the server: what the documentation says to do then
                await sb.consumers.reset("S", "w", sequence=1)
            if not any(astuple(swept)) and not await handed_out_anew(sb):
                return
        except (ConnectionLost, RequestTimeout):
            continue


async def handed_out_anew(sb):
    """Whether something was, and given back as often as there was something."""
    taken = []
    async with sb.pull("s.>", durable="w", stream="S", ensure="bind") as puller:
        while some := await puller.fetch(100, timeout=ACK_WAIT + 1):
            taken += some
            for message in some:
                await message.nak(delay=0)
    return bool(taken)


async def each_once(sb, number):
    assert sorted(int(each.data) for each in await letters(sb)) == list(range(number))
    assert (await sb.streams.info(NOTICES)).messages == 0


@pytest.mark.parametrize("retention", KINDS)
async def test_a_server_killed_again_and_again_meanwhile(server, sb, retention):
    await given_up(sb, MANY, retention)
    running = asyncio.create_task(sweeping(sb))
    for written in (1, MANY // 3, MANY // 2):
        await eventually(lambda: sb.stats.dead_lettered >= written or running.done(), within=60)  # noqa: B023 - awaited here
        await server.kill()
        await server.start()
    await asyncio.wait_for(running, 90)
    await each_once(sb, MANY)


async def test_a_frozen_server_is_told_and_the_next_sweep_goes_on(server, sb, monkeypatch):
    monkeypatch.setattr("broker.burying._PATIENCE", 1.0)
    await given_up(sb, MANY)
    running = asyncio.create_task(sb.dead_letters.sweep("S"))
    await eventually(lambda: sb.stats.dead_lettered >= 2)
    await server.freeze()
    with pytest.raises((ConnectionLost, TimeoutError)):
        await asyncio.wait_for(running, 60)
    await server.thaw()
    await asyncio.wait_for(sweeping(sb), 60)
    await each_once(sb, MANY)


@pytest_asyncio.fixture
async def as_role(link):
    """Opens brokers of a role with these permissions, beside an administrator."""
    servers, opened = [], []

    async def connect(url, user):
        opened.append(await StreamBroker.connect(url, link=link, user=user, password="p"))
        return opened[-1]

    async def start(publish):
        server = NatsServer(
            sync_interval=None, config=ROLE.format(publish=publish), login={"user": "admin", "pass": "p"}
        )
        servers.append(await server.__aenter__())
        return await connect(server.url, "admin"), await connect(server.url, "role")

    yield start
    for each in opened:
        await each.aclose()
    for server in servers:
        await server.__aexit__(None, None, None)


@pytest.mark.parametrize("forbidden", STEPS)
async def test_what_is_forbidden_is_told_by_subject_and_nothing_is_lost(as_role, forbidden):
    admin, role = await as_role(f'{{ deny: ["{forbidden}"] }}')
    await given_up(admin, 2)
    if "CREATE" not in forbidden:
        await admin._streams.exhausted.keep_notices(1)
    with pytest.raises(PermissionDenied) as caught:
        await role.dead_letters.sweep("S")
    assert caught.value.subject.startswith(forbidden.rstrip(">"))
    await asyncio.wait_for(sweeping(admin), 30)
    await each_once(admin, 2)


@pytest.mark.parametrize("retention", KINDS)
async def test_a_role_needs_no_more_than_is_said(as_role, retention):
    allowed = ", ".join(f'"{each}"' for each in NEEDED)
    admin, role = await as_role(f"{{ allow: [{allowed}] }}")
    await given_up(admin, 1)
    assert await admin.dead_letters.sweep("S") == Swept(written=1)  # both streams are there from now on
    await admin.streams.delete("S")
    await given_up(admin, 2, retention)
    assert await role.dead_letters.sweep("S") == Swept(written=2)
    assert await role.dead_letters.sweep("S") == Swept()


@pytest.mark.xdist_group("cluster")
@pytest.mark.slow
@pytest.mark.parametrize("retention", KINDS)
async def test_leaders_killed_meanwhile(link, retention):
    async with Cluster(sync_interval=None) as cluster, StreamBroker.connect(cluster.url, link=link) as sb:
        await given_up(sb, MANY, retention, replicas=3)
        running = asyncio.create_task(sweeping(sb))
        for written in (1, MANY // 2):
            await eventually(lambda: sb.stats.dead_lettered >= written or running.done(), within=60)  # noqa: B023 - awaited here
            leader = await leader_of(sb, cluster, "CONSUMER.INFO.S.w")
            await leader.kill()
            await asyncio.sleep(2)
            await leader.start()
        await asyncio.wait_for(running, 90)
        await each_once(sb, MANY)
        assert (await sb.streams.info(NOTICES)).config.replicas == 3


async def leader_of(sb, cluster, verb):
    async def found():
        told = await sb._streams._admin._api.call(verb)
        return [node for node in cluster.nodes if node.settings.name == told["cluster"].get("leader")]

    return (await eventually(found, within=20))[0]
