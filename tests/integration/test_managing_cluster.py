"""Streams in a cluster of three: placed, replicated, and read from any of its servers."""

import pytest

from broker import (
    ApiError,
    ConfigDrift,
    ConsumerOptions,
    Expect,
    Placement,
    SequenceConflict,
    StreamBroker,
    StreamOptions,
    Unsupported,
)
from broker.server import Cluster
from tests.clusters import declared

pytestmark = [pytest.mark.xdist_group("cluster"), pytest.mark.nats, pytest.mark.timeout(90)]


async def test_a_replicated_stream_is_placed_read_anywhere_and_scaled(link):
    async with (
        Cluster(name="game", sync_interval=None) as cluster,
        StreamBroker.connect(cluster.url, link=link) as sb,
    ):
        options = StreamOptions("S", ["s.>"], replicas=3, placement=Placement("game"))
        await sb.declare(options)
        assert (await sb.streams.info("S")).config == options
        for node in cluster.url.split(","):
            async with StreamBroker.connect(node, link=link) as near:
                for number in range(40):
                    receipt = await near.enqueue(f"s.{number}", number)
                    message = await near.streams.get_message("S", receipt.sequence)
                    assert message is not None, "stored, and said not to be there"
                    assert message.json() == number
        last = {each.subject async for each in sb.streams.get_last_many("S", ["s.>"])}
        assert len(last) == 40
        for node in cluster.url.split(","):
            async with StreamBroker.connect(node, link=link) as near:
                newest = (await sb.enqueue("s.0", "newest")).sequence
                run = [each.sequence async for each in near.streams.get_many("S", limit=1000)]
                assert run == list(range(1, newest + 1))
        consumer = ConsumerOptions(durable="c", stream="S", replicas=1)
        assert (await sb.consumers.create(consumer)).config.replicas == 1
        with pytest.raises(ConfigDrift) as drift:
            await sb.consumers.create(ConsumerOptions(durable="c", stream="S", replicas=3))
        assert drift.value.differences == {"replicas": (3, 1)}
        await sb.declare(StreamOptions("T", ["t.>"]))
        with pytest.raises(ApiError) as caught:
            await sb.consumers.create(ConsumerOptions(durable="c", stream="T", replicas=3))
        assert caught.value.err_code == 10126
        with pytest.raises(ApiError) as caught:
            await sb.declare(StreamOptions("U", ["u.>"], placement=Placement("elsewhere")))
        assert caught.value.err_code == 10005


async def test_expecting_a_message_id_is_refused_where_the_server_would_lose_the_stream(link):
    async with (
        Cluster(name="game", sync_interval=None) as cluster,
        StreamBroker.connect(cluster.url, link=link) as sb,
    ):
        await declared(sb, StreamOptions("R3", ["r.>"], replicas=3), StreamOptions("R1", ["s.>"]))
        for subject in ("r.a", "s.a"):
            assert (await sb.enqueue(subject, 1)).sequence == 1
        other = Expect(last_msg_id="other")
        with pytest.raises(Unsupported, match="3 replicas"):
            await sb.enqueue("r.a", 2, expect=other)
        with pytest.raises(SequenceConflict):
            await sb.enqueue("s.a", 2, expect=other)
        for expect in (Expect(last_sequence=9), Expect(last_subject_sequence=9)):
            with pytest.raises(SequenceConflict):
                await sb.enqueue("r.a", 2, expect=expect)
        for subject in ("r.a", "s.a"):
            assert (await sb.enqueue(subject, 2)).sequence == 2
