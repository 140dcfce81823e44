"""A server of its own for every fault test: it is going to be killed."""

import pytest_asyncio

from broker import StreamBroker
from broker.server import NatsServer


@pytest_asyncio.fixture
async def server(tmp_path):
    async with NatsServer(tmp_path / "store") as running:
        yield running


@pytest_asyncio.fixture
async def sb(server):
    async with StreamBroker.connect(server.url) as connected:
        yield connected
