"""Two hundred clients lose their server in the same moment."""

import asyncio
import json
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from broker import StreamBroker
from broker.server import NatsServer
from broker.server.wire import http_get
from broker.testing.waiting import eventually

pytestmark = [pytest.mark.nats, pytest.mark.fault]

CLIENTS = 200


def descriptors():
    return len(list(Path("/dev/fd").iterdir()))


async def connections_made(server):
    """How many connections the server has taken since its start."""
    page = urlsplit(server.monitoring_url)
    _, said = await http_get(page.hostname, page.port, "/varz", timeout=10)
    return json.loads(said)["total_connections"]


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_all_come_back_within_seconds_none_is_lost_and_nobody_storms(link):
    async with NatsServer(sync_interval=None, monitoring=True) as server:
        before = descriptors()
        clients = await asyncio.gather(
            *(StreamBroker.connect(server.url, link=link, connect_timeout=30) for _ in range(CLIENTS))
        )
        own, shared = [[] for _ in clients], [[] for _ in clients]
        for number, client in enumerate(clients):
            await client.subscribe(f"player.{number}", lambda msg, seen=own[number]: seen.append(msg.json()))
            await client.subscribe("everybody", lambda msg, seen=shared[number]: seen.append(msg.json()))
        await server.kill()
        await eventually(lambda: all(each.status == "reconnecting" for each in clients), within=15)
        await server.start()
        await eventually(lambda: all(each.stats.reconnects == 1 for each in clients), within=30)
        for number in range(CLIENTS):
            await clients[0].publish(f"player.{number}", number)
        await clients[0].publish("everybody", "hello")
        await eventually(lambda: own == [[number] for number in range(CLIENTS)], within=15)
        await eventually(lambda: shared == [["hello"]] * CLIENTS, within=15)
        assert await connections_made(server) < CLIENTS * 3
        await asyncio.gather(*(each.aclose() for each in clients))
        await eventually(lambda: descriptors() <= before, within=10)
