"""What a consumer goes through on a real server is told, and it goes on: silence, a lost connection, another leader."""

import asyncio
from functools import partial

import pytest
import pytest_asyncio

from broker import Entry, StreamBroker, StreamOptions
from broker.server import Cluster
from broker.testing.waiting import eventually
from tests.clusters import declared

pytestmark = [pytest.mark.nats, pytest.mark.fault, pytest.mark.slow, pytest.mark.timeout(90)]

S = StreamOptions("S", ["s.>"])


class Listening:
    """Notes the kinds of events until they end."""

    def __init__(self, events):
        self.kinds = []
        self.task = asyncio.create_task(self._listen(events))

    async def _listen(self, events):
        async for event in events:
            self.kinds.append(event.kind)


async def by_fetch(puller, seen):
    while True:
        for msg in await puller.fetch(10, timeout=2):
            await msg.ack()
            seen.append(msg.json())


async def by_next(puller, seen):
    while True:
        msg = await puller.next(timeout=2)
        if msg is not None:
            await msg.ack()
            seen.append(msg.json())


async def by_iterating(puller, seen):
    async for msg in puller:
        await msg.ack()
        seen.append(msg.json())


every_puller = pytest.mark.parametrize("take", [by_fetch, by_next, by_iterating], ids=["fetch", "next", "iterate"])


async def store(sb, *numbers):
    await sb.enqueue_many(Entry("s.a", number) for number in numbers)


async def test_the_silence_of_a_frozen_server_is_told_and_consuming_goes_on(server, connect):
    async with connect() as sb:
        await sb.declare(S)
        seen = []
        worker = await sb.consume("s.a", lambda msg: seen.append(msg.json()), durable="w")
        listening = Listening(worker.events())
        await store(sb, 1)
        await eventually(lambda: seen == [1])
        await server.freeze()
        await eventually(lambda: "heartbeats_missed" in listening.kinds, within=20)
        await server.thaw()
        await store(sb, 2)
        await eventually(lambda: seen == [1, 2], within=20)


@every_puller
async def test_the_silence_of_a_frozen_server_is_outlived_by_a_puller(server, connect, take):
    async with connect() as sb:
        await sb.declare(S)
        seen = []
        async with sb.pull("s.a", durable="w") as puller:
            listening = Listening(puller.events())
            taking = asyncio.create_task(take(puller, seen))
            await store(sb, 1)
            await eventually(lambda: seen == [1])
            await server.freeze()
            await eventually(lambda: "heartbeats_missed" in listening.kinds, within=20)
            await server.thaw()
            await store(sb, 2)
            await eventually(lambda: seen == [1, 2], within=20)
            taking.cancel()
            await asyncio.wait([taking])


async def test_a_lost_connection_is_told_and_that_it_is_back(server, connect):
    async with connect() as sb:
        await sb.declare(S)
        seen = []
        worker = await sb.consume("s.a", lambda msg: seen.append(msg.json()), durable="w")
        listening = Listening(worker.events())
        await server.restart()
        await eventually(lambda: "reconnected" in listening.kinds, within=20)
        assert [kind for kind in listening.kinds if kind in {"disconnected", "reconnected"}][:2] == [
            "disconnected",
            "reconnected",
        ]
        await store(sb, 1)
        await eventually(lambda: seen == [1], within=10)
        await worker.drain()
        await asyncio.wait_for(listening.task, 5)


async def test_a_push_consumer_outlives_a_frozen_and_a_killed_server(server, connect):
    async with connect() as sb:
        await sb.declare(S)
        seen = set()
        worker = await sb.push_subscribe("s.a", lambda msg: seen.add(msg.json()), durable="w", idle_heartbeat=0.5)
        listening = Listening(worker.events())
        await store(sb, 1)
        await eventually(lambda: seen == {1})
        await server.freeze()
        await eventually(lambda: "heartbeats_missed" in listening.kinds, within=20)
        await server.thaw()
        await store(sb, 2)
        await eventually(lambda: seen == {1, 2}, within=20)
        await server.kill()
        await server.restart()
        await store(sb, 3)
        await eventually(lambda: seen == {1, 2, 3}, within=20)


@pytest.mark.parametrize("group", [None, "w"], ids=["alone", "group"])
async def test_a_push_consumer_deleted_on_the_server_is_made_again(connect, group):
    async with connect() as sb:
        await sb.declare(S)
        seen = []
        options = {"durable": "w", "queue": group, "idle_heartbeat": 0.5}
        worker = await sb.push_subscribe("s.a", lambda msg: seen.append(msg.json()), **options)
        listening = Listening(worker.events())
        await store(sb, 1)
        await eventually(lambda: seen == [1])
        await sb.consumers.delete("S", "w")
        await store(sb, 2)
        await eventually(lambda: seen[-1] == 2, within=25)
        assert "consumer_recreated" in listening.kinds


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster():
    async with Cluster(sync_interval=None) as cluster:
        yield cluster


async def step_down(sb, consumer):
    """Ask the leader of the consumer to let another one lead."""
    await sb._streams._admin._api.call(f"CONSUMER.LEADER.STEPDOWN.S.{consumer}")


@pytest.mark.xdist_group("cluster")
class TestAnotherLeader:
    pytestmark = pytest.mark.asyncio(loop_scope="module")

    @pytest_asyncio.fixture(loop_scope="module")
    async def sb(self, cluster, link):
        async with StreamBroker.connect(cluster.nodes[0].url, link=link) as sb:
            await declared(sb, StreamOptions("S", ["s.>"], replicas=3, storage="memory"))
            yield sb
            await sb.streams.delete("S")

    async def test_consume_goes_on_with_it(self, sb):
        seen = []
        worker = await sb.consume("s.a", lambda msg: seen.append(msg.json()), durable="w", dead_letter=False)
        listening = Listening(worker.events())
        await store(sb, 1)
        await eventually(lambda: seen == [1], within=15)
        await eventually(partial(asked_for_more, sb), within=15)
        await step_down(sb, "w")
        await eventually(lambda: "leader_changed" in listening.kinds, within=20)
        await store(sb, 2, 3)
        await eventually(partial(complete, seen), within=30)
        await worker.drain()

    async def test_a_push_consumer_goes_on_with_it(self, sb):
        seen = []
        worker = await sb.push_subscribe(
            "s.a", lambda msg: seen.append(msg.json()), durable="w", dead_letter=False, idle_heartbeat=1
        )
        await store(sb, 1)
        await eventually(lambda: seen == [1], within=15)
        await step_down(sb, "w")
        await store(sb, 2, 3)
        await eventually(partial(complete, seen), within=40)
        await worker.drain()

    @every_puller
    async def test_a_puller_goes_on_with_it(self, sb, take):
        seen = []
        async with sb.pull("s.a", durable="w") as puller:
            listening = Listening(puller.events())
            taking = asyncio.create_task(take(puller, seen))
            await store(sb, 1)
            await eventually(lambda: seen == [1], within=15)
            await eventually(partial(asked_for_more, sb), within=15)
            await step_down(sb, "w")
            await eventually(lambda: "leader_changed" in listening.kinds, within=20)
            await store(sb, 2, 3)
            await eventually(partial(complete, seen), within=30)
            taking.cancel()
            await asyncio.wait([taking])


async def asked_for_more(sb):
    """Only who waits for a message hears of the election."""
    return (await sb.consumers.info("S", "w")).waiting


def complete(seen):
    """An ack may be lost with the leader that got it: repeats are possible, loss is not."""
    return set(seen) == {1, 2, 3}
