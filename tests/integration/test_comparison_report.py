"""The five tests of the comparison report of 2025-11-18, asked of ours: on a real server, over both links."""

import asyncio
from time import monotonic

import pytest
import pytest_asyncio

from broker import (
    ConsumerNotFound,
    EnqueueUnknown,
    Entry,
    NoStream,
    StreamBroker,
    StreamNotFound,
    StreamOptions,
)
from broker.server import NatsServer

pytestmark = [pytest.mark.nats, pytest.mark.timeout(60)]

ORDERS = StreamOptions("ORDERS", ["orders.>"], max_msgs=20_000)
MANY = 2_000


@pytest_asyncio.fixture
async def server():
    async with NatsServer(sync_interval=None) as started:
        yield started
        if started.running:
            await started.thaw()


@pytest_asyncio.fixture
async def sb(server, link):
    async with StreamBroker.connect(server.url, link=link) as connected:
        yield connected


async def test_a_stream_is_made_looked_at_changed_listed_purged_and_deleted(sb):
    made = await sb.streams.create(ORDERS)
    assert (made.name, made.config, made.messages) == ("ORDERS", ORDERS, 0)
    await sb.enqueue_many(Entry("orders.new", number) for number in range(7))
    assert (await sb.streams.info("ORDERS")).messages == 7
    wider = StreamOptions("ORDERS", ["orders.>", "refunds.>"], max_msgs=30_000)
    assert (await sb.streams.update(wider)).config == wider
    assert (await sb.enqueue("refunds.new", 7)).sequence == 8
    assert [name async for name in sb.streams.names()] == ["ORDERS"]
    assert await sb.streams.purge("ORDERS", subject="orders.>") == 7
    assert (await sb.streams.info("ORDERS")).messages == 1
    await sb.streams.delete("ORDERS")
    assert [name async for name in sb.streams.names()] == []


async def test_a_publish_is_confirmed_and_its_duplicate_is_told_and_not_stored(sb):
    await sb.declare(ORDERS)
    first = await sb.enqueue("orders.new", {"id": 1}, idempotency_key="order-1", headers={"X-Shop": "eu"})
    again = await sb.enqueue("orders.new", {"id": 1}, idempotency_key="order-1")
    other = await sb.enqueue("orders.new", {"id": 2}, idempotency_key="order-2")
    assert [(each.stream, each.sequence, each.duplicate) for each in (first, again, other)] == [
        ("ORDERS", 1, False),
        ("ORDERS", 1, True),
        ("ORDERS", 2, False),
    ]
    assert (await sb.streams.info("ORDERS")).messages == 2
    stored = await sb.streams.get_message("ORDERS", 1)
    assert (stored.json(), stored.headers["X-Shop"]) == ({"id": 1}, "eu")


async def test_three_of_five_are_pulled_and_acked_by_hand_and_two_stay(sb):
    await sb.declare(ORDERS)
    await sb.enqueue_many(Entry("orders.new", number) for number in range(5))
    async with sb.pull("orders.>", durable="worker") as puller:
        taken = await puller.fetch(3, timeout=10)
        assert [each.json() for each in taken] == [0, 1, 2]
        before = await sb.consumers.info("ORDERS", "worker")
        assert (before.ack_pending, before.pending) == (3, 2)
        for each in taken:
            await each.ack(confirm=True)
        after = await sb.consumers.info("ORDERS", "worker")
        assert (after.ack_pending, after.ack_floor, after.pending) == (0, 3, 2)
    async with sb.pull("orders.>", durable="worker") as puller:
        rest = await puller.fetch(2, timeout=15)
        assert [(each.json(), each.attempt) for each in rest] == [(3, 1), (4, 1)]


async def one_by_one(sb, keys):
    return [await sb.enqueue("orders.new", bytes(128), idempotency_key=key) for key in keys]


async def pipelined(sb, keys):
    return await sb.enqueue_many(Entry("orders.new", bytes(128), key) for key in keys)


WAYS = {"awaited": (one_by_one, 1), "by 16 callers": (one_by_one, 16), "pipelined": (pipelined, 1)}


async def test_what_is_published_at_any_rate_is_all_stored_in_order(sb, link, capsys):
    await sb.declare(ORDERS)
    told = []
    for way, (publish, callers) in WAYS.items():
        keys = [f"{way} {number}" for number in range(MANY)]
        began = monotonic()
        receipts = await asyncio.gather(*(publish(sb, keys[caller::callers]) for caller in range(callers)))
        told.append(f"{way} {MANY / (monotonic() - began):,.0f}")
        for of_one in receipts:
            sequences = [each.sequence for each in of_one]
            assert sequences == sorted(sequences)
        assert len({each.sequence for of_one in receipts for each in of_one}) == MANY
        assert not any(each.duplicate for of_one in receipts for each in of_one)
        assert await sb.streams.purge("ORDERS") == MANY
    with capsys.disabled():
        print(f"\n{link}, 128 bytes stored and confirmed a second:", ", ".join(told))  # noqa: T201 - the figure


async def test_what_is_missing_has_a_class_of_its_own(sb):
    with pytest.raises(StreamNotFound) as no_stream:
        await sb.streams.info("MISSING")
    assert no_stream.value.stream == "MISSING"
    with pytest.raises(StreamNotFound):
        await sb.streams.delete("MISSING")
    with pytest.raises(NoStream) as uncaptured:
        await sb.enqueue("nobody.listens", b"")
    assert uncaptured.value.subject == "nobody.listens"
    await sb.declare(ORDERS)
    with pytest.raises(ConsumerNotFound) as no_consumer:
        await sb.consumers.info("ORDERS", "missing")
    assert no_consumer.value.stream == "ORDERS"
    with pytest.raises(ConsumerNotFound):
        await sb.consumers.delete("ORDERS", "missing")
    with pytest.raises(ConsumerNotFound):
        async with sb.pull("orders.>", durable="missing", stream="ORDERS", ensure="bind") as puller:
            await puller.fetch(1, timeout=5)


async def test_a_publish_that_times_out_is_unknown_and_safe_to_repeat(sb, server):
    await sb.declare(ORDERS)
    await server.freeze()
    began = monotonic()
    with pytest.raises(EnqueueUnknown) as unknown:
        await sb.enqueue("orders.new", b"once", timeout=0.5)
    assert monotonic() - began < 5
    assert isinstance(unknown.value, TimeoutError)
    await server.thaw()
    key = unknown.value.idempotency_key
    repeated = await sb.enqueue("orders.new", b"once", idempotency_key=key, timeout=40)
    assert repeated.sequence == 1
    assert (await sb.streams.info("ORDERS")).messages == 1
