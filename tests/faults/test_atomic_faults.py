"""Atomic batches while the server freezes, dies and restarts: all of each or nothing, and once."""

import asyncio

import pytest

from broker import EnqueueUnknown, Entry, StreamOptions
from broker.testing.waiting import eventually

pytestmark = [pytest.mark.nats, pytest.mark.fault]

S = StreamOptions("S", ["s.>"])
SIZE = 5


def batch(number):
    return [Entry("s.a", [number, n], idempotency_key=f"{number}-{n}") for n in range(SIZE)]


async def stored(sb):
    if not (await sb.streams.info("S")).messages:
        return []
    async with sb.read("s.>", until="end") as messages:
        return [message.json() async for message in messages]


async def test_a_batch_sent_to_a_frozen_server_is_stored_once(server, sb):
    await sb.declare(S)
    await server.freeze()
    sending = asyncio.create_task(sb.enqueue_atomic(batch(0), timeout=19))
    await eventually(lambda: sb.stats.enqueue_retries, within=10)  # the first attempt is in the server's hands by now
    await server.thaw()
    receipts = await sending
    assert [each.sequence for each in receipts] == list(range(1, SIZE + 1))
    assert await stored(sb) == [[0, n] for n in range(SIZE)]


async def test_unknown_is_cleared_up_by_asking_again(server, sb):
    await sb.declare(S)
    await server.freeze()
    with pytest.raises(EnqueueUnknown):
        await sb.enqueue_atomic(batch(0), timeout=0.3)
    await server.thaw()
    await eventually(lambda: stored_all(sb), within=10)
    receipts = await sb.enqueue_atomic(batch(0))
    assert [(each.sequence, each.duplicate) for each in receipts] == [(n, True) for n in range(1, SIZE + 1)]


async def stored_all(sb):
    return (await sb.streams.info("S")).messages == SIZE


@pytest.mark.timeout(60)
async def test_kills_under_way_leave_every_batch_whole_and_single(server, sb):
    await sb.declare(S)
    done = 0

    async def produce(first):
        nonlocal done
        for number in range(first, 120, 4):
            await sb.enqueue_atomic(batch(number), timeout=40)
            done += 1

    producing = asyncio.gather(*(produce(first) for first in range(4)))
    for mark in (20, 50, 80):
        await eventually(lambda mark=mark: done >= mark, within=20)
        await server.kill()
        await server.restart()
    await asyncio.wait_for(producing, 40)
    found = await stored(sb)
    assert sorted(found) == [[number, n] for number in range(120) for n in range(SIZE)]
    assert all(found[at][0] == found[at + n][0] for at in range(0, len(found), SIZE) for n in range(SIZE))
