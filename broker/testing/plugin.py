"""The pytest plugin ``gamebroker``: a real server and brokers on it, imported when they are asked for.

Works with pytest-asyncio in both modes; without it, the async fixtures are left to whatever runs async tests.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

import pytest

try:
    import pytest_asyncio
except ImportError:  # another async plugin runs the tests
    async_fixture = pytest.fixture
else:
    async_fixture = cast("Any", pytest_asyncio.fixture)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from broker.broker import Broker
    from broker.server import NatsServer
    from broker.stream_broker import StreamBroker

# Plain asserts in the shipped suite should explain themselves as they do in test files.
pytest.register_assert_rewrite("broker.testing.conformance", "broker.testing.waiting")


async def remove_streams(url: str) -> None:
    """Empty a server: every stream goes, with its messages, its consumers and the keys it remembers."""
    from broker import StreamBroker  # noqa: PLC0415 - see the head of this file

    async with StreamBroker.connect(url) as sb:
        for name in [name async for name in sb.streams.names()]:
            await sb.streams.delete(name)


@pytest.fixture(scope="session")
def nats_server() -> Iterator[NatsServer]:
    """A real nats-server for the whole run, with JetStream, on a free port and in a temporary directory.

    No server to start: the tests that need it are skipped on a laptop and fail where ``CI`` is set.
    """
    from broker.server import NatsServer, ServerError  # noqa: PLC0415 - see the head of this file

    server = NatsServer()
    # A loop of its own: the server outlives every test's loop.
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        try:
            runner.run(server.start())
        except ServerError as missing:
            if os.environ.get("CI"):
                pytest.fail(f"CI may not skip: {missing}", pytrace=False)
            pytest.skip(str(missing))
        try:
            yield server
        finally:
            runner.run(server.stop())


@async_fixture
async def broker(nats_server: NatsServer) -> AsyncIterator[Broker]:
    """A ``Broker`` connected to ``nats_server``, closed after the test."""
    from broker import Broker  # noqa: PLC0415 - see the head of this file

    async with Broker.connect(nats_server.url) as connected:
        yield connected


@async_fixture
async def stream_broker(nats_server: NatsServer) -> AsyncIterator[StreamBroker]:
    """A ``StreamBroker`` connected to ``nats_server``; after the test every stream is removed and it is closed."""
    from broker import StreamBroker  # noqa: PLC0415 - see the head of this file

    async with StreamBroker.connect(nats_server.url) as connected:
        yield connected
    await remove_streams(nats_server.url)


@async_fixture
async def memory_stream_broker() -> AsyncIterator[StreamBroker]:
    """A ``StreamBroker`` on the memory backend, alone on a server of its own."""
    from broker import StreamBroker  # noqa: PLC0415 - see the head of this file

    async with StreamBroker.connect(f"memory://{uuid4().hex}") as connected:
        yield connected
