"""A replicated bucket while its leader is killed: every write has one outcome, and a watch has them all."""

import asyncio
from contextlib import suppress

import pytest
import pytest_asyncio

from broker import RequestTimeout, StreamBroker, WriteUnknown
from broker.server import Cluster
from broker.testing.waiting import eventually

pytestmark = [
    pytest.mark.xdist_group("cluster"),
    pytest.mark.nats,
    pytest.mark.fault,
    pytest.mark.slow,
    pytest.mark.timeout(120),
]


@pytest_asyncio.fixture
async def cluster():
    async with Cluster(sync_interval=None) as cluster:
        yield cluster


async def counted(kv, entry_of, times):
    """Adds one so often; how many additions are known to be in, and how many may be."""
    sure = unsure = 0
    for _ in range(times):
        try:
            await kv.modify("count", entry_of, timeout=30)
        except WriteUnknown:
            unsure += 1
        else:
            sure += 1
        await asyncio.sleep(0.05)
    return sure, unsure


async def made(sb):
    """The bucket; a young cluster may not answer at once."""
    with suppress(RequestTimeout):
        return await sb.key_value("b", replicas=3, history=64)


async def leader_of(sb, cluster):
    info = (await sb.request("$JS.API.STREAM.INFO.KV_b", b"", timeout=10)).json()
    return next(node for node in cluster.nodes if node.settings.name == info["cluster"]["leader"])


def one_more(entry):
    return 1 if entry is None else entry.json() + 1


async def test_no_addition_is_lost_or_made_twice_while_the_leader_dies(cluster, link):
    urls = ",".join(node.url for node in cluster.nodes)
    async with StreamBroker.connect(urls, link=link) as sb:
        kv = await eventually(lambda: made(sb), within=30)
        seen = []

        async def follow(watch):
            async for entry in watch:
                seen.append(entry)

        async with kv.watch() as watch:
            following = asyncio.create_task(follow(watch))
            others = [await StreamBroker.connect(urls, link=link) for _ in range(2)]
            buckets = [await other.key_value("b", ensure="bind") for other in others]
            counting = [asyncio.create_task(counted(each, one_more, 20)) for each in (kv, *buckets)]
            await eventually(lambda: len(seen) > 15, within=30)
            await (await leader_of(sb, cluster)).kill()
            outcomes = await asyncio.wait_for(asyncio.gather(*counting), 80)
            entry = await eventually(lambda: kv.get("count"), within=30)
            last = await kv.put("count", entry.json(), timeout=30)
            # The watch's own consumer may have died with the leader; the history holds all of it meanwhile.
            await eventually(lambda: following.done() or seen[-1].revision == last, within=30)
            assert not following.done(), following
            following.cancel()
        await asyncio.gather(*(other.aclose() for other in others))
    sure, unsure = (sum(each) for each in zip(*outcomes, strict=True))
    values = [entry.json() for entry in seen[:-1]]
    assert values == list(range(1, len(values) + 1))
    assert sure <= len(values) <= sure + unsure
    assert [entry.revision for entry in seen] == list(range(1, last + 1))


async def test_a_watch_outlives_the_server_that_kept_its_consumer(cluster, link):
    urls = ",".join(node.url for node in cluster.nodes)
    async with StreamBroker.connect(urls, link=link) as sb:
        kv = await eventually(lambda: made(sb), within=30)
        await kv.put("a", 0, timeout=30)
        async with kv.watch() as watch:
            assert (await anext(watch)).json() == 0
            waiting = asyncio.ensure_future(anext(watch))
            [consumer] = [name async for name in sb.consumers.names("KV_b")]
            info = (await sb.request(f"$JS.API.CONSUMER.INFO.KV_b.{consumer}", b"", timeout=10)).json()
            await next(node for node in cluster.nodes if node.settings.name == info["cluster"]["leader"]).kill()
            await kv.put("a", 1, timeout=30)
            assert (await asyncio.wait_for(waiting, 45)).json() == 1
