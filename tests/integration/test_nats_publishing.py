"""What only a real server can show of batches, schedules and counters."""

import asyncio

import pytest

from broker import ApiError, BatchRejected, Entry, Expect, SequenceConflict, StreamBroker, StreamOptions
from broker.contracts.envelopes import Record
from broker.contracts.headers import Headers
from broker.server import Cluster, NatsServer
from broker.testing.waiting import eventually
from tests.clusters import declared

pytestmark = pytest.mark.nats


@pytest.fixture(scope="module")
def schedules():
    return StreamOptions("S", ["s.>"], schedules=True, discard="old")


async def test_schedules_outlive_a_killed_server(tmp_path, schedules):
    async with NatsServer(tmp_path / "store") as server, StreamBroker.connect(server.url) as sb:
        await sb.declare(schedules)
        await sb.schedule("s.soon", "soon", delay=1, key="soon", idempotency_key="once")
        await sb.schedule("s.later", "later", delay=3600, key="later")
        await server.kill()
        await server.restart()
        await eventually(lambda: sb.streams.get_last("S", "s.soon"), within=15)
        message = await sb.streams.get_last("S", "s.soon")
        assert (message.json(), message.idempotency_key) == ("soon", "once")
        assert await sb.cancel("later")


async def test_schedules_can_be_switched_on_later(tmp_path, schedules):
    async with NatsServer(tmp_path / "store") as server, StreamBroker.connect(server.url) as sb:
        await sb.declare(StreamOptions("S", ["s.>"], discard="old"))
        await sb.declare(schedules, ensure="update")
        await sb.declare(schedules)
        await sb.schedule("s.a", 1, delay=0, key="k")
        await eventually(lambda: sb.streams.get_last("S", "s.a"), within=10)


async def test_a_stream_that_captures_everything_keeps_schedules_too(tmp_path):
    options = StreamOptions("ALL", ["s.>", "gamebroker.>"], schedules=True, discard="old")
    async with NatsServer(tmp_path / "store") as server, StreamBroker.connect(server.url) as sb:
        await sb.declare(options)
        await sb.declare(options)
        await sb.schedule("s.a", 1, delay=600, key="k")
        assert await sb.cancel("k")


@pytest.mark.slow
@pytest.mark.timeout(60)
async def test_too_many_open_batches_pass(tmp_path):
    """Another client leaves fifty batches open: ours waits until the server has room again."""
    async with NatsServer(tmp_path / "store") as server, StreamBroker.connect(server.url) as sb:
        await sb.declare(StreamOptions("S", ["s.>"]))
        for number in range(50):
            headers = Headers((("Nats-Batch-Id", f"open-{number}"), ("Nats-Batch-Sequence", "1")))
            await sb._streams.request("s.a", b"", headers, timeout=5)
        receipts = await sb.enqueue_atomic([Entry("s.a", n) for n in range(3)], timeout=40)
        assert [each.sequence for each in receipts] == [1, 2, 3]
        assert sb.stats.enqueue_retries


@pytest.mark.xdist_group("cluster")
@pytest.mark.slow
@pytest.mark.timeout(90)
async def test_three_replicas_keep_every_promise_of_a_batch():
    """Replicas look for repeats and expectations in another order than one node does."""
    entries = [
        Entry(f"s.{who}", who, idempotency_key="transfer", expect=Expect(last_subject_sequence=0))
        for who in ("ann", "bob")
    ]
    async with Cluster(sync_interval=None) as cluster, StreamBroker.connect(cluster.url) as sb:
        await declared(sb, StreamOptions("S", ["s.>"], replicas=3))
        assert [each.duplicate for each in await sb.enqueue_atomic(entries, timeout=30)] == [False, False]
        assert [tuple(each) for each in await sb.enqueue_atomic(entries)] == [
            ("S", 1, True),
            ("S", 2, True),
        ]
        with pytest.raises(BatchRejected) as caught:
            await sb.enqueue_atomic([Entry("s.cid", 1), Entry("s.ann", 1, idempotency_key="transfer")])
        assert (caught.value.index, list(caught.value.stored)) == (1, [1])
        with pytest.raises(SequenceConflict) as conflict:
            await sb.enqueue_atomic([Entry("s.cid", 1), Entry("s.bob", 1, expect=Expect(last_subject_sequence=9))])
        assert conflict.value.index == 1
        assert (await sb.streams.info("S")).messages == 2
        await asyncio.gather(*(sb.enqueue_atomic([Entry("s.x", n), Entry("s.y", n)]) for n in range(40)))
        assert (await sb.streams.info("S")).messages == 82


async def test_a_refused_addition_leaves_the_counter_alone(tmp_path):
    async with NatsServer(tmp_path / "store") as server, StreamBroker.connect(server.url) as sb:
        await sb.declare(StreamOptions("C", ["c.>"], counters=True, discard="old"))
        assert await sb.increment("c.a", 2) == 2
        record = Record("c.a", b"no body is allowed", None, "an-id", increment=1)
        with pytest.raises(ApiError) as caught:
            await sb._streams.append(record, timeout=5)
        assert caught.value.err_code == 10170
        assert await sb.counter("c.a") == 2
