"""``request_many`` when the question is forbidden or the connection breaks: told at once, whatever it does then."""

import asyncio
from uuid import uuid4

import pytest
import pytest_asyncio

from broker import Broker, ConnectionLost, PermissionDenied, Status

PATIENCE = 15
"""Seconds: a time-out far longer than any test waits for."""


@pytest_asyncio.fixture
async def sb():
    async with Broker.connect(f"memory://{uuid4().hex}") as connected:
        yield connected


@pytest_asyncio.fixture
async def asked(sb):
    """Who asks rooms, which answer once each, and then nothing more comes."""
    got = asyncio.Queue()
    await sb.respond("rooms", got.put)
    return got


def deny(sb, subject, verb="publish"):
    sb._backend.board.denials.tell(PermissionDenied(verb=verb, subject=subject))


@pytest.mark.usefixtures("asked")
async def test_while_it_waits(sb):
    replies = sb.request_many("rooms", b"", timeout=PATIENCE)
    await anext(replies)
    waiting = asyncio.create_task(anext(replies))
    await asyncio.sleep(0)
    deny(sb, "rooms", "subscribe")
    deny(sb, "another")
    await asyncio.sleep(0.05)
    assert not waiting.done()
    deny(sb, "rooms")
    async with asyncio.timeout(PATIENCE / 3):
        with pytest.raises(PermissionDenied) as caught:
            await waiting
    assert (caught.value.verb, caught.value.subject) == ("publish", "rooms")


async def test_while_its_caller_is_busy(sb, asked):
    replies = sb.request_many("rooms", b"", timeout=PATIENCE)
    await anext(replies)
    deny(sb, (await asked.get()).reply_to)
    async with asyncio.timeout(PATIENCE / 3):
        with pytest.raises(PermissionDenied):
            await anext(replies)


@pytest.mark.usefixtures("asked")
async def test_in_the_same_moment_as_the_deadline(sb):
    replies = sb.request_many("rooms", b"", timeout=0.1)
    await anext(replies)
    asyncio.get_running_loop().call_later(0.1, deny, sb, "rooms")
    with pytest.raises((PermissionDenied, StopAsyncIteration)):
        await anext(replies)


@pytest.mark.usefixtures("asked")
async def test_it_listens_no_longer_than_it_asks(sb):
    before = list(sb._backend.board._watchers._callbacks)
    async for _ in sb.request_many("rooms", b"", timeout=PATIENCE, max_replies=1):
        pass
    assert sb._backend.board.denials._callbacks == []
    assert sb._backend.board._watchers._callbacks == before


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize("back", [True, False], ids=["and is back at once", "and stays away"])
async def test_the_connection_breaks(sb, back):
    board = sb._backend.board
    replies = sb.request_many("rooms", b"", timeout=PATIENCE)
    await anext(replies)
    waiting = asyncio.create_task(anext(replies))
    await asyncio.sleep(0)
    board.set(Status.RECONNECTING)
    if back:
        board.set(Status.CONNECTED)
    async with asyncio.timeout(PATIENCE / 3):
        with pytest.raises(ConnectionLost):
            await waiting


async def test_what_came_before_the_break_is_given_out_first(sb, asked):
    await sb.respond("rooms", asked.put)
    await sb.respond("rooms", asked.put)
    replies = sb.request_many("rooms", b"", timeout=PATIENCE)
    await anext(replies)
    for _ in range(3):
        await asked.get()
    await sb.flush()
    sb._backend.board.set(Status.RECONNECTING)
    await anext(replies)
    await anext(replies)
    with pytest.raises(ConnectionLost):
        await anext(replies)


@pytest.mark.usefixtures("asked")
async def test_a_break_after_the_last_reply_that_was_wanted_is_no_loss(sb):
    replies = sb.request_many("rooms", b"", timeout=PATIENCE, max_replies=1)
    async for _ in replies:
        sb._backend.board.set(Status.RECONNECTING)
