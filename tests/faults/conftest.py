"""A server of its own for every fault test: it is going to be killed. Each test runs on both links."""

import logging
from functools import partial

import pytest
import pytest_asyncio

from broker import StreamBroker
from broker.server import NatsServer


@pytest.fixture(autouse=True)
def quiet():
    """Lost connections are what these tests make; their log lines say nothing new."""
    logging.getLogger("broker").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("broker").setLevel(logging.NOTSET)


@pytest_asyncio.fixture
async def server(tmp_path):
    async with NatsServer(tmp_path / "store") as running:
        yield running
        if running.running:
            await running.thaw()  # a frozen one does not hear that it should end


@pytest.fixture
def connect(server, link):
    """``StreamBroker.connect`` to the server, over the link under test."""
    return partial(StreamBroker.connect, server.url, link=link)


@pytest_asyncio.fixture
async def sb(connect):
    async with connect() as connected:
        yield connected
