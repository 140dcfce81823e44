"""HOSTILE 5: the outbox and its relay (each test states a promise that did not hold when it was written)."""

import pytest
import pytest_asyncio
from sqlalchemy import text

from broker import StreamOptions
from broker.exactly_once import Outbox
from broker.testing.waiting import eventually

BOARD = "board.points"

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(params=["memory"])
def sb(request):
    return request.getfixturevalue("memory_stream_broker" if request.param == "memory" else "stream_broker")


@pytest_asyncio.fixture
async def outbox(url):
    async with Outbox(url) as opened:
        await opened.create()
        yield opened


async def test_rows_that_no_stream_takes_hold_up_nobody_however_many(sb, outbox):
    """docs: what cannot be sent "holds up its own ordering key only". Oldest first, they are taken before all others.

    As many as fail in the longest pause (60 s) do so for ever: with the defaults 30,000, or 3,000 that time out.
    """
    await sb.declare(StreamOptions("BOARD", ["board.>"], storage="memory"))
    async with outbox.engine.begin() as tx:
        for number in range(500):
            await outbox.enqueue(tx, "nowhere.a", number)
        await outbox.enqueue(tx, BOARD, "fine")
    async with outbox.relay(sb, poll=0.05, batch=2):
        await eventually(lambda: outbox.stats.sent == 1, within=15)
