"""Both sides on one server: ours on each link, theirs in a process of Node."""

import os

import pytest
import pytest_asyncio

from broker import StreamBroker
from broker.testing.plugin import remove_streams
from loadtest.homes import INTEROP, Missing
from tests.interop.nodejs import NatsJs


@pytest.fixture(scope="session")
def command():
    """What starts nats.js. Without Node its tests are skipped on a laptop and fail where ``CI`` is set."""
    try:
        INTEROP.ready()
    except Missing as missing:
        why = f"nats.js cannot be spoken with: {missing}"
        if os.environ.get("CI"):
            pytest.fail(f"CI may not skip: {why}", pytrace=False)
        pytest.skip(why)
    return INTEROP.command


@pytest_asyncio.fixture
async def sb(nats_server, link):
    async with StreamBroker.connect(nats_server.url, link=link) as connected:
        yield connected
    await remove_streams(nats_server.url)


@pytest_asyncio.fixture
async def theirs(command, nats_server):
    client = await NatsJs.start(command, nats_server.url)
    yield client
    await client.stop()
