"""Management questions whose answer got lost on a real line: asked once more where that changes nothing."""

import asyncio
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio

from broker import ConnectionLost, ConsumerOptions, RequestTimeout, StreamBroker, StreamOptions
from broker.testing.plugin import remove_streams
from tests.door import door_to

pytestmark = [pytest.mark.nats, pytest.mark.timeout(60)]


@pytest_asyncio.fixture
async def sb(nats_server):
    async with StreamBroker.connect(nats_server.url) as connected:
        await connected.declare(StreamOptions("S", ["s.>"]))
        yield connected
    await remove_streams(nats_server.url)


@asynccontextmanager
async def a_line_that_loses_an_answer(nats_server, link, work, *, breaks):
    """The task of ``work``, whose first answer does not arrive: the line falls silent, and may break."""
    async with door_to(nats_server) as door, StreamBroker.connect(door.url, link=link) as far:
        door.swallows = "answered"
        working = asyncio.ensure_future(work(far))
        await asyncio.sleep(0.5)
        if breaks:
            door.shut()
        door.swallows = None
        door.open = True
        yield working


def ask(far):
    return far.streams.info("S")


def declare(far):
    return far.declare(StreamOptions("S", ["s.>"]))


def delete(far):
    return far.streams.delete("S")


def create(far):
    return far.consumers.create(ConsumerOptions(durable="w", filters=["s.>"], stream="S"))


@pytest.mark.parametrize("breaks", [False, True], ids=["silent", "broken"])
@pytest.mark.parametrize("work", [ask, declare, create])
async def test_what_may_be_sent_twice_is(sb, nats_server, link, work, breaks):
    async with a_line_that_loses_an_answer(nats_server, link, work, breaks=breaks) as working:
        await asyncio.wait_for(working, 4.5)
    consumers = [each async for each in sb.consumers.names("S")]
    assert consumers == (["w"] if work is create else [])


@pytest.mark.usefixtures("sb")
@pytest.mark.parametrize(("breaks", "told"), [(False, RequestTimeout), (True, ConnectionLost)], ids=["silent", "lost"])
async def test_what_may_not_says_that_nobody_knows(nats_server, link, breaks, told):
    async with a_line_that_loses_an_answer(nats_server, link, delete, breaks=breaks) as working:
        with pytest.raises(told):
            await asyncio.wait_for(working, 8)
