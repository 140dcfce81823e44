"""What an expectation ran into when the first answer was lost on a real line: our own message, or somebody else's."""

import asyncio
import logging
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio

from broker import Entry, Expect, Receipt, SequenceConflict, StreamBroker, StreamOptions
from broker.testing.plugin import remove_streams
from broker.testing.waiting import eventually
from tests.door import door_to

pytestmark = [pytest.mark.nats, pytest.mark.timeout(60)]


@pytest.fixture(autouse=True)
def quiet():
    """Lost connections are what these tests make."""
    logging.getLogger("broker").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("broker").setLevel(logging.NOTSET)


@pytest_asyncio.fixture
async def sb(nats_server):
    async with StreamBroker.connect(nats_server.url) as connected:
        await connected.declare(StreamOptions("S", ["s.>"]))
        yield connected
    await remove_streams(nats_server.url)


@asynccontextmanager
async def behind_a_door(nats_server, link):
    async with door_to(nats_server) as door, StreamBroker.connect(door.url, link=link) as far:
        yield far, door


async def messages(sb, stream="S"):
    return (await sb.streams.info(stream)).messages


async def in_spite_of_a_lost_line(door, work, meanwhile, *, swallows):
    """What comes of ``work`` when half of its line falls silent, then ``meanwhile`` happens, and the line breaks."""
    door.swallows = swallows
    working = asyncio.ensure_future(work)
    await meanwhile()
    door.shut()
    door.swallows = None
    door.open = True
    return await asyncio.wait_for(working, 30)


@pytest.mark.parametrize(
    "expect", [Expect(last_sequence=1), Expect(last_subject_sequence=1)], ids=["stream", "subject"]
)
async def test_our_own_message_is_found(sb, nats_server, link, expect):
    await sb.enqueue("s.a", 0)
    async with behind_a_door(nats_server, link) as (far, door):

        async def stored():
            return await messages(sb) == 2

        async def meanwhile():
            await eventually(stored, within=15)
            await sb.enqueue("s.a", "theirs, later")

        receipt = await in_spite_of_a_lost_line(
            door, far.enqueue("s.a", "ours", expect=expect, timeout=25), meanwhile, swallows="answered"
        )
        assert receipt == Receipt("S", 2, duplicate=True)
        assert await messages(sb) == 3


@pytest.mark.parametrize(
    "expect", [Expect(last_sequence=1), Expect(last_subject_sequence=1)], ids=["stream", "subject"]
)
async def test_somebody_else_s_is_told_from_it(sb, nats_server, link, expect):
    await sb.enqueue("s.a", 0)
    async with behind_a_door(nats_server, link) as (far, door):

        async def meanwhile():
            await eventually(lambda: b"ours" in door.swallowed, within=15)
            await sb.enqueue("s.a", "theirs")

        with pytest.raises(SequenceConflict):
            await in_spite_of_a_lost_line(
                door, far.enqueue("s.a", "ours", expect=expect, timeout=25), meanwhile, swallows="asked"
            )
        assert await messages(sb) == 2


async def test_each_of_many_is_found(sb, nats_server, link):
    await sb.enqueue("s.0", 0)
    async with behind_a_door(nats_server, link) as (far, door):

        async def stored():
            return await messages(sb) == 11

        async def meanwhile():
            await eventually(stored, within=15)

        entries = [Entry(f"s.{number}", number, expect=Expect(last_subject_sequence=0)) for number in range(1, 11)]
        receipts = await in_spite_of_a_lost_line(
            door, far.enqueue_many(entries, timeout=25), meanwhile, swallows="answered"
        )
        assert receipts == [Receipt("S", number + 1, duplicate=True) for number in range(1, 11)]


async def test_a_key_whose_history_others_have_dropped_is_known_to_be_written(sb, nats_server, link):
    kv = await sb.key_value("b", history=1)
    first = await kv.put("a", "first")
    async with behind_a_door(nats_server, link) as (far, door):
        ours = await far.key_value("b", ensure="bind")

        async def stored():
            entry = await kv.get("a")
            return entry.revision > first

        async def meanwhile():
            await eventually(stored, within=15)
            await kv.put("a", "theirs")

        written = await in_spite_of_a_lost_line(
            door, ours.update("a", "ours", revision=first, timeout=25), meanwhile, swallows="answered"
        )
        assert written == first + 1
        assert (await kv.get("a")).json() == "theirs"
