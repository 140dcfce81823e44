"""What integration tests share: brokers at the seam, and a server of one's own to do harm to."""

import pytest
import pytest_asyncio

from broker import StreamBroker
from broker.backends.nats import open_backend
from broker.contracts.options import ConnectOptions
from broker.server import NatsServer
from broker.testing.plugin import remove_streams
from tests.orders import ORDERS

pytest.register_assert_rewrite("tests.operations")  # it fails like a test, so it tells like one


@pytest_asyncio.fixture
async def backend(nats_server, link):
    """On the server of the whole run, with one empty stream of orders: nothing is left of whoever came before."""
    await remove_streams(nats_server.url)
    backend = await open_backend(ConnectOptions(url=nats_server.url, link=link))
    await backend.create_stream(ORDERS)
    yield backend
    async for stream in backend.list_streams():
        await backend.delete_stream(stream.name)
    await backend.close()


@pytest_asyncio.fixture
async def server():
    async with NatsServer(sync_interval=None) as started:
        yield started
        if started.running:
            await started.thaw()


@pytest_asyncio.fixture
async def connect(link):
    opened = []

    async def connect(server, **options):
        opened.append(await open_backend(ConnectOptions(url=server.url, link=link, **options)))
        return opened[-1]

    yield connect
    for backend in opened:
        await backend.close()


@pytest_asyncio.fixture
async def sb(nats_server, link):
    async with StreamBroker.connect(nats_server.url, link=link) as sb:
        yield sb
    await remove_streams(nats_server.url)
