"""From ``connect`` to the end of ``async with``, on every backend that has a URL."""

import asyncio
import socket
from time import monotonic

import pytest

from broker import Broker, ConnectError, InvalidOption, StreamBroker, StreamOptions, Unsupported
from broker.testing.conformance.scene import Gate, fresh
from broker.testing.plugin import remove_streams
from broker.testing.waiting import eventually


@pytest.fixture(params=[pytest.param("memory_server", id="memory"), pytest.param("nats_server", id="nats")])
def server_url(request):
    return request.getfixturevalue(request.param).url


@pytest.fixture
def silent_port():
    """Accepts connections and says nothing, ever."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@pytest.mark.parametrize("kind", [Broker, StreamBroker])
async def test_it_is_awaited_or_entered(server_url, kind):
    awaited = await kind.connect(server_url)
    assert (type(awaited), awaited.status) == (kind, "connected")
    await awaited.aclose()
    async with kind.connect(server_url, name="room-42") as entered:
        assert entered.status == "connected"
    assert entered.status == "closed"


async def test_the_environment_says_where(server_url, monkeypatch):
    monkeypatch.setenv("NATS_URL", server_url)
    async with Broker.connect() as broker:
        assert broker.status == "connected"


async def test_leaving_drains(server_url):
    gate, subject = Gate(), fresh("battle")
    async with Broker.connect(server_url) as broker:
        await broker.subscribe(subject, gate.handle)
        await broker.publish(subject, 1)
        await eventually(lambda: gate.started)
        asyncio.get_running_loop().call_later(0.05, gate.open)
    assert len(gate.finished) == 1


async def test_leaving_with_an_error_closes_at_once(server_url):
    gate, subject, left = Gate(), fresh("battle"), []

    async def fail():
        async with Broker.connect(server_url) as broker:
            left.append(broker)
            await broker.subscribe(subject, gate.handle)
            await broker.publish(subject, 1)
            await eventually(lambda: gate.started)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert (left[0].status, gate.running, gate.finished) == ("closed", 0, [])


async def test_being_cancelled_finishes_what_runs_and_acks_it(server_url):
    gate, name = Gate(), fresh("stream")

    async def work():
        async with StreamBroker.connect(server_url) as sb:
            worker = await sb.consume(f"{name}.a", gate.handle, durable="worker", ack_wait=30)
            await worker.wait()

    async with StreamBroker.connect(server_url) as watcher:
        await watcher.declare(StreamOptions(name, [f"{name}.>"]))
        await watcher.enqueue(f"{name}.a", 1)
        working = asyncio.create_task(work())
        await eventually(lambda: gate.started)
        working.cancel()
        await asyncio.sleep(0.05)
        gate.open()
        with pytest.raises(asyncio.CancelledError):
            await working
        assert len(gate.finished) == 1
        assert (await watcher.consumers.info(name, "worker")).ack_floor == 1
    await remove_streams(server_url)


@pytest.mark.nats
async def test_nobody_there_is_told_within_the_time_out_on_nats():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    began = monotonic()
    with pytest.raises(ConnectError):
        await Broker.connect(f"nats://127.0.0.1:{port}", connect_timeout=0.5)
    assert monotonic() - began < 3


@pytest.mark.nats
async def test_a_server_that_says_nothing_is_told_within_the_time_out_on_nats(silent_port):
    began = monotonic()
    with pytest.raises(ConnectError):
        await Broker.connect(f"nats://127.0.0.1:{silent_port}", connect_timeout=0.5)
    assert monotonic() - began < 3


@pytest.mark.nats
async def test_one_of_several_servers_is_enough_on_nats(nats_server):
    async with Broker.connect(f"nats://127.0.0.1:1,{nats_server.url}") as broker:
        await broker.flush()


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("carrier-pigeon://loft", {}),
        ("memory://", {"connect_timeout": 0}),
        ("memory://", {"connect_timeout": "soon"}),
        ("memory://", {"outbound_limit": 0}),
    ],
    ids=str,
)
async def test_bad_options_are_refused(url, options):
    with pytest.raises(InvalidOption):
        await Broker.connect(url, **options)


async def test_a_backend_without_streams_has_no_stream_broker():
    class CoreOnly:
        pass

    with pytest.raises(Unsupported):
        StreamBroker(CoreOnly())
