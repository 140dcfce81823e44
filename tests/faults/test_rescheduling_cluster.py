"""What waits for a far attempt, in a cluster that loses the leader of where it waits."""

from collections import Counter
from contextlib import suppress

import pytest
import pytest_asyncio

from broker import BrokerError, StreamBroker, StreamOptions
from broker.server import Cluster
from broker.testing.waiting import eventually

pytestmark = [
    pytest.mark.xdist_group("cluster"),
    pytest.mark.nats,
    pytest.mark.fault,
    pytest.mark.slow,
    pytest.mark.timeout(120),
]

LATER = "GAMEBROKER_LATER"
MANY = 60


@pytest_asyncio.fixture
async def cluster():
    async with Cluster(sync_interval=None) as cluster:
        yield cluster


async def declared(sb):
    """A young cluster may not answer at once."""
    with suppress(BrokerError):
        await sb.declare(StreamOptions("MAIL", ["mail.>"], replicas=3))
        return True


async def leader_of(sb, cluster):
    info = (await sb.request(f"$JS.API.STREAM.INFO.{LATER}", b"", timeout=10)).json()
    return next(node for node in cluster.nodes if node.settings.name == info["cluster"]["leader"])


async def test_none_is_lost_with_the_leader_of_where_they_wait(cluster, link):
    async with StreamBroker.connect(",".join(cluster.urls), link=link) as sb:
        await eventually(lambda: declared(sb), within=30)
        attempts = []

        async def handle(msg):
            attempts.append((msg.json(), msg.attempt))
            if msg.attempt == 1:
                raise ConnectionError

        options = {"backoff": (3.0,), "reschedule_after": 0.2, "ack_wait": 5.0, "max_deliver": 20}
        await sb.consume("mail.>", handle, durable="mailer", **options)
        assert (await sb.streams.info(LATER)).config.replicas == 3
        for number in range(MANY):
            await sb.enqueue("mail.ann", number, idempotency_key=f"mail-{number}", timeout=30)
            if number == MANY // 2:
                await eventually(lambda: sb.stats.rescheduled > MANY // 4, within=30)
                await (await leader_of(sb, cluster)).kill()

        def handled():
            return Counter(body for body, attempt in attempts if attempt > 1)

        await eventually(lambda: len(handled()) == MANY, within=60)

        async def nothing_left():
            with suppress(BrokerError):
                info = await sb.consumers.info("MAIL", "mailer")
                waiting = (await sb.streams.info(LATER)).messages
                return (info.pending, info.ack_pending, waiting) == (0, 0, 0)

        await eventually(nothing_left, within=30)
