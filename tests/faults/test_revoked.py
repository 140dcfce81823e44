"""Credentials taken away while they are in use: final, told to everybody who waits, and not argued about."""

import asyncio
import json
from dataclasses import replace
from urllib.parse import urlsplit

import pytest

from broker import ConnectionLost, Status, StreamBroker, StreamOptions, Unauthorized
from broker.server import NatsServer
from broker.server.wire import http_get
from broker.testing.waiting import eventually, never
from tests.integration.test_wire_identity import Realm

pytestmark = [pytest.mark.nats, pytest.mark.fault]

USERS = "authorization {{ users: [ {{ user: admin, password: p }}, {{ user: {role}, password: p }} ] }}"


async def connections_made(server):
    page = urlsplit(server.monitoring_url)
    _, said = await http_get(page.hostname, page.port, "/varz", timeout=10)
    return json.loads(said)["total_connections"]


async def story_of(broker):
    return [status async for status in broker.status_changes()]


async def waiters(sb):
    """One call of every kind that waits for the server or a message."""

    async def silent(_msg):
        await asyncio.sleep(60)

    await sb.declare(StreamOptions("S", ["s.>"]))
    await sb.respond("silent", silent)
    consumption = await sb.consume("s.a", print, durable="w")

    async def fetch():
        async with sb.pull("s.b", durable="v") as pulled:
            await pulled.next(timeout=60)

    async def collect():
        return [reply async for reply in sb.request_many("silent", 1, timeout=60)]

    calls = [sb.request("silent", 1, timeout=60), consumption.wait(), fetch(), collect()]
    return [asyncio.create_task(each) for each in calls]


@pytest.mark.timeout(60)
async def test_a_user_removed_by_a_reload_is_told_to_everybody_and_tries_no_more(link):
    config = USERS.format(role="role")
    login = {"user": "admin", "pass": "p"}
    async with NatsServer(sync_interval=None, config=config, login=login, monitoring=True) as server:
        sb = await StreamBroker.connect(server.url, link=link, user="role", password="p")
        story, waiting = asyncio.create_task(story_of(sb)), await waiters(sb)
        iterated = await sb.subscribe("nothing")
        reading = asyncio.create_task(anext(iterated, "ended"))
        await asyncio.sleep(0.1)
        await server.reload(USERS.format(role="somebody-else"))
        asked, *consuming, collected = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 15)
        # A server may hang up first and refuse later, and requests in flight hear of the first at once.
        assert isinstance(asked, Unauthorized | ConnectionLost)
        assert isinstance(collected, Unauthorized | ConnectionLost)
        assert [type(each) for each in consuming] == [Unauthorized] * len(consuming)
        assert await asyncio.wait_for(reading, 10) == "ended"
        assert (await asyncio.wait_for(story, 10))[-1] is Status.UNAUTHORIZED
        for call in (
            sb.request("a", 1),
            sb.publish("a", 1),
            sb.enqueue("s.a", 1),
            sb.subscribe("a", print),
            sb.consume("s.a", print, durable="w"),
            sb.flush(),
        ):
            with pytest.raises(Unauthorized):
                await asyncio.wait_for(call, 10)
        with pytest.raises(Unauthorized):
            sb.publish_nowait("a", 1)
        made = await connections_made(server)
        await never(lambda: more_than(server, made), during=1)
        await asyncio.wait_for(sb.aclose(), 10)
        assert sb.status is Status.UNAUTHORIZED


async def more_than(server, made):
    return await connections_made(server) > made


@pytest.mark.timeout(60)
async def test_a_jwt_that_expires_is_final(link, tmp_path):
    """The server counts whole seconds, so one more connection within the last of them may still be taken."""
    realm, file = Realm(), tmp_path / "ann.creds"
    async with NatsServer(config=realm.config) as server:
        file.write_text(realm.creds(life=3))
        broker = await StreamBroker.connect(server.url, link=link, creds=str(file))
        await eventually(lambda: broker.status is Status.UNAUTHORIZED, within=20)
        with pytest.raises(Unauthorized):
            await broker.request("a", 1)
        await broker.aclose()


@pytest.mark.timeout(60)
async def test_a_server_that_comes_back_with_other_users_is_final(link):
    login = {"user": "admin", "pass": "p"}
    async with (
        NatsServer(sync_interval=None, config=USERS.format(role="role"), login=login) as server,
        StreamBroker.connect(server.url, link=link, user="role", password="p") as sb,
    ):
        await server.kill()
        await eventually(lambda: sb.status is Status.RECONNECTING, within=10)
        waiting = asyncio.create_task(sb.request("a", 1, timeout=60))
        server.settings = replace(server.settings, text=USERS.format(role="somebody-else"))
        await server.start()
        with pytest.raises(Unauthorized):
            await asyncio.wait_for(waiting, 20)
        assert sb.status is Status.UNAUTHORIZED
