"""A server comes back in another version: what it says may look otherwise, and nothing that was stored is lost."""

import pytest

from broker import StreamBroker, StreamOptions
from broker.server import NatsServer
from broker.testing.waiting import eventually

pytestmark = [pytest.mark.nats, pytest.mark.fault]

OLD, NEW = (f"feature_flags {{ js_ack_fc_v2: {flag} }}" for flag in ("false", "true"))


@pytest.mark.parametrize(("before", "after"), [(OLD, NEW), (NEW, OLD)], ids=["upgraded", "set back"])
async def test_a_consumer_reads_ack_subjects_of_whatever_version_comes_back(tmp_path, link, before, after):
    seen = []
    async with NatsServer(tmp_path / "store", config=before) as server:
        port = server.port
        sb = await StreamBroker.connect(server.url, link=link)
        await sb.declare(StreamOptions("ORDERS", ["orders.*"]))
        await sb.consume("orders.*", lambda msg: seen.append((msg.sequence, msg.attempt)), durable="worker")
        await sb.enqueue("orders.new", b"1")
        await eventually(lambda: seen == [(1, 1)])
    try:
        async with NatsServer(tmp_path / "store", config=after, port=port):
            await sb.enqueue("orders.new", b"2")
            await sb.enqueue("orders.new", b"3")
            await eventually(lambda: seen[-1:] == [(3, 1)], within=15)
            assert [sequence for sequence, _ in seen] == [1, 2, 3]
    finally:
        await sb.aclose()
