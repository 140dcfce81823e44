"""Opening a consumer while the broker's end begins: refused, and nothing is left behind."""

import asyncio
from uuid import uuid4

import pytest
import pytest_asyncio

from broker import BrokerClosed, StreamBroker, StreamOptions
from broker.testing.waiting import eventually


@pytest_asyncio.fixture
async def sb():
    async with StreamBroker.connect(f"memory://{uuid4().hex}") as connected:
        await connected.declare(StreamOptions("S", ["s.>"]))
        await connected.declare(StreamOptions("L", ["l.>"], lanes=2))
        yield connected


async def handle(_msg):
    await asyncio.sleep(60)


async def pull(sb):
    async with sb.pull("s.a", durable="d"):
        pass


OPENINGS = {
    "consume": lambda sb: sb.consume("s.a", handle, durable="d"),
    "plain function": lambda sb: sb.consume("s.a", print, durable="d"),
    "in lanes": lambda sb: sb.consume("l.a", handle, queue="q", ordered=True),
    "push_subscribe": lambda sb: sb.push_subscribe("s.a", handle),
    "pull": pull,
}


@pytest.mark.parametrize("open_", OPENINGS.values(), ids=OPENINGS)
@pytest.mark.parametrize("end", ["aclose", "drain"])
async def test_it_is_refused_and_leaves_nothing(sb, monkeypatch, open_, end):
    """The end begins when the server has the consumer and its caller does not know yet."""
    opened, ending, before = sb._streams.open_consumer, [], asyncio.all_tasks()

    async def opening(*args, **kwargs):
        source = await opened(*args, **kwargs)
        if not ending:
            ending.append(asyncio.create_task(getattr(sb, end)()))
            await asyncio.sleep(0)
            assert sb.status == "draining"
        return source

    monkeypatch.setattr(sb._streams, "open_consumer", opening)
    with pytest.raises(BrokerClosed):
        await open_(sb)
    assert ending
    assert not sb._roster.drainables
    await asyncio.gather(*ending)
    await eventually(lambda: not asyncio.all_tasks() - before)
