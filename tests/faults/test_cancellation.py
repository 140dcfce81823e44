"""Every public verb, cancelled at each of its awaits: the cancellation comes out, and nothing stays behind.

After each cancellation the same broker still works, and what it keeps account of (calls in flight, subscriptions,
watchers, sources, waiting senders) is as it was before.
"""

import asyncio
import gc
from contextlib import aclosing
from pathlib import Path
from uuid import uuid4

import pytest
import pytest_asyncio
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider

from broker import StreamBroker, StreamOptions
from broker.backends import open_backend
from broker.contracts.options import ConnectOptions
from broker.server import NatsServer
from broker.telemetry import trace_backend
from broker.testing.cancelling import cancelled_everywhere
from broker.testing.waiting import eventually
from tests.accounts import accounts
from tests.faults.core_verbs import prepared
from tests.faults.stage import ACK_WAIT, AGAIN, BOUND, LIMIT, VERBS, Stage
from tests.faults.stream_verbs import pulled

pytestmark = [pytest.mark.fault]


@pytest.fixture(scope="module")
def shared_server():
    server = NatsServer(sync_interval=None, monitoring=True)
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(server.start())
        try:
            yield server
        finally:
            runner.run(server.stop())


@pytest.fixture(
    params=["memory", "traced", *(pytest.param(each, marks=pytest.mark.nats) for each in ("nats-py", "wire"))]
)
def place(request):
    if request.param in {"memory", "traced"}:
        return f"memory://{uuid4().hex}", None, None
    server = request.getfixturevalue("shared_server")
    return server.url, request.param, server.monitoring_url


@pytest_asyncio.fixture
async def stage(place, request):
    url, link, monitoring = place
    stream = f"s{uuid4().hex[:10]}"
    backend = await open_backend(ConnectOptions(url=url, link=link, outbound_limit=LIMIT))
    if "traced" in request.node.name:
        tracing = TracerProvider(shutdown_on_exit=False)
        backend = trace_backend(backend, tracer_provider=tracing, meter_provider=MeterProvider(shutdown_on_exit=False))
    async with StreamBroker(backend) as sb:
        await sb.declare(StreamOptions(stream, [f"{stream}.>"]))
        await sb.respond(f"echo.{stream}", lambda msg: msg.data)
        yield Stage(url, link, sb, stream, monitoring)
        for name in [each async for each in sb.streams.names()]:
            if name.startswith(stream):
                await sb.streams.delete(name)


def descriptors():
    return sum(1 for _ in Path("/dev/fd").iterdir())


@pytest_asyncio.fixture
async def no_noise():
    """Nothing may reach the loop's handler of last resort, such as an error that nobody retrieved."""
    told = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context))
    yield
    gc.collect()
    assert not told


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", VERBS)
@pytest.mark.usefixtures("no_noise")
async def test_cancelled_at_every_await(stage, name):
    work = VERBS[name]
    await prepared(stage, name)
    await work(stage)  # what a first use keeps for good is no leak of the others
    await stage.works()
    await asyncio.sleep(0.01)
    tasks, before, known = asyncio.all_tasks(), accounts(stage.sb), await stage.subscriptions()
    opened = descriptors()
    await prepared(stage, name)
    async with aclosing(cancelled_everywhere(lambda: work(stage), within=BOUND)) as runs:
        async for _run in runs:
            await stage.unchanged(before, tasks)
            await stage.works()
            await prepared(stage, name)
    if left := stage.kept.pop("busy", None):
        await left.aclose()
    if left := stage.kept.pop("draining", None):
        await left.drain()
        assert stage.seen == stage.kept["stored"]
    await eventually(lambda: descriptors() <= opened)

    async def the_server_knows_of_nothing_more():
        return await stage.subscriptions() == known

    await eventually(the_server_knows_of_nothing_more, within=BOUND)
    await nothing_is_kept_from_the_others(stage, name)


async def nothing_is_kept_from_the_others(stage, name):
    """What a cancelled puller had in hand is there for the next one, long before its ack wait is over."""
    if name.startswith("pull_") and name != "pull_nothing":
        async with pulled(stage) as puller:
            got = await puller.fetch(3, timeout=AGAIN * 5)
            assert sorted(each.json() for each in got) == [0, 1, 2]
    elif name.startswith("consume_") and name != "consume_unnamed":
        # A handler that was cancelled has given its message back, so somebody else can finish all of them now.
        handled = await stage.sb.consume(
            stage.subject("work"), lambda _: None, durable=name.removeprefix("consume_"), ack_wait=ACK_WAIT
        )

        async def idle():
            info = await stage.sb.consumers.info(stage.stream, handled.consumer)
            return info.pending == 0 and info.ack_pending == 0

        await eventually(idle, within=AGAIN * 5)
        await handled.drain()


async def test_giving_up_on_a_message_can_be_cancelled_and_done_again(stage):
    """It is in the dead letters once, and settled once, however often that was begun."""
    told = asyncio.get_running_loop().create_future()

    async def handle(msg):
        runs = [run async for run in cancelled_everywhere(lambda: msg.term("enough"), within=BOUND)]
        told.set_result(len(runs))

    subject = stage.subject("buried")
    consumption = await stage.sb.consume(subject, handle, durable="buried", ack_wait=ACK_WAIT)
    await stage.sb.enqueue(subject, b"x", idempotency_key="battle-42")
    async with asyncio.timeout(BOUND * 3):
        assert await told > 2
    await consumption.drain()
    [letter] = [each async for each in stage.sb.dead_letters.list(subject=subject)]
    assert letter.reason == "enough"
    info = await stage.sb.consumers.info(stage.stream, "buried")
    assert (info.pending, info.ack_pending) == (0, 0)
