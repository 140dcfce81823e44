"""The core tier while the server is frozen, killed or refuses: it never blocks, and it counts what it drops."""

import asyncio
import time

import pytest

from broker import (
    Broker,
    BrokerClosed,
    ConnectError,
    ConnectionLost,
    NoResponders,
    RequestTimeout,
    Status,
    Unauthorized,
)
from broker.server import NatsServer
from broker.testing.waiting import eventually

pytestmark = [pytest.mark.nats, pytest.mark.fault]


async def test_publishing_to_a_frozen_server_never_blocks_is_bounded_and_counted(server, connect):
    async with connect(outbound_limit=256 << 10) as broker:
        await server.freeze()
        body, worst = b"x" * 50_000, 0.0  # more in all than the kernel buffers for a loopback socket
        for _ in range(60 * 6):
            before = time.perf_counter()
            broker.publish_nowait("battle.42.state", body)
            worst = max(worst, time.perf_counter() - before)
            await asyncio.sleep(1 / 240)
        assert worst < 0.05, f"worst call {worst * 1000:.1f} ms"
        assert broker.stats.dropped_outbound > 0
        await server.thaw()
        await eventually(lambda: broker.status is Status.CONNECTED, within=15)
        seen = []
        await broker.subscribe("battle.42.state", lambda msg: seen.append(msg.data))
        broker.publish_nowait("battle.42.state", b"after")
        await eventually(lambda: b"after" in seen)


async def test_publish_waits_instead_of_dropping_and_can_be_cancelled(server, connect):
    async with connect(outbound_limit=64 << 10) as broker:
        await server.freeze()

        async def flood():
            while True:
                await broker.publish("battle.42.state", b"x" * 10_000)

        flooding = asyncio.create_task(flood())
        await asyncio.sleep(0.5)
        sent = broker.stats.published
        await asyncio.sleep(0.3)
        assert broker.stats.published == sent
        flooding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(flooding, 10)
        await server.thaw()


async def test_a_subscription_outlives_a_kill_and_restart(server, connect):
    async with connect() as broker:
        seen = []
        await broker.subscribe("a.*", lambda msg: seen.append(msg.json()))
        await server.kill()
        await server.restart()
        await eventually(lambda: broker.stats.reconnects == 1, within=15)
        await broker.publish("a.b", 1)
        await eventually(lambda: seen == [1])


async def test_subscribing_outlives_a_kill_and_restart(server, connect, monkeypatch):
    monkeypatch.setattr("broker.backends.nats.core._SUBSCRIBE_TIMEOUT", 15.0)
    async with connect() as broker:
        seen = []
        await server.freeze()
        subscribing = asyncio.create_task(broker.subscribe("a.*", lambda msg: seen.append(msg.json())))
        await asyncio.sleep(0.2)
        await server.kill()
        await server.restart()
        await subscribing
        await broker.publish("a.b", 1)
        await eventually(lambda: seen == [1])


async def test_a_request_in_flight_fails_at_once_when_the_server_dies(server, connect):
    async with connect() as broker:
        hold = asyncio.Event()

        async def silent(_msg):
            await hold.wait()

        await broker.respond("slow", silent)
        asking = asyncio.create_task(broker.request("slow", 1, timeout=30))
        await asyncio.sleep(0.1)
        await server.kill()
        with pytest.raises(ConnectionLost):
            await asyncio.wait_for(asking, 10)
        hold.set()


async def test_a_frozen_server_is_a_time_out_and_status_says_so_within_six_seconds(server, connect):
    async with connect() as broker:
        await server.freeze()
        with pytest.raises((RequestTimeout, ConnectionLost)):
            await broker.request("anything", 1, timeout=0.3)
        await eventually(lambda: broker.status is Status.RECONNECTING, within=12)
        await server.thaw()
        await eventually(lambda: broker.status is Status.CONNECTED, within=15)
        with pytest.raises(NoResponders):
            await broker.request("anything", 1)


async def test_status_changes_tell_the_story_and_end(server, connect):
    broker = await connect()
    story = []

    async def listen():
        async for status in broker.status_changes():
            story.append(status)

    listening = asyncio.create_task(listen())
    await asyncio.sleep(0.05)
    await server.kill()
    await eventually(lambda: Status.RECONNECTING in story, within=15)
    await server.restart()
    await eventually(lambda: story[-1] is Status.CONNECTED, within=15)
    await broker.drain()
    await asyncio.wait_for(listening, 10)
    assert story == [Status.CONNECTED, Status.RECONNECTING, Status.CONNECTED, Status.DRAINING, Status.CLOSED]
    with pytest.raises(BrokerClosed):
        broker.publish_nowait("a", 1)


@pytest.mark.parametrize("url", ["nats://127.0.0.1:1", "nats://no-such-host.invalid:4222"])
async def test_connecting_to_nobody_fails_in_time_and_names_the_server(url, link):
    before = time.perf_counter()
    with pytest.raises(ConnectError, match=url.removeprefix("nats://").split(":")[0]):
        await Broker.connect(url, connect_timeout=1.0, link=link)
    assert time.perf_counter() - before < 6


async def test_a_wrong_password_is_unauthorized_at_once_and_never_in_the_message(link):
    async with NatsServer(config="authorization { user: ann, password: right }") as server:
        before = time.perf_counter()
        with pytest.raises(Unauthorized) as caught:
            await Broker.connect(server.url, user="ann", password="wr0ng", connect_timeout=5, link=link)
        assert time.perf_counter() - before < 4
        assert "wr0ng" not in str(caught.value) + repr(caught.value)
