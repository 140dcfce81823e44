"""The same over a real server, where the context has to survive the wire and the server's own limits."""

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from broker import PayloadTooLarge, StreamBroker, StreamOptions
from broker.backends import open_backend
from broker.contracts.options import ConnectOptions
from broker.telemetry import trace_backend
from broker.testing.waiting import eventually

pytestmark = pytest.mark.nats


@pytest.fixture
def recorded():
    return InMemorySpanExporter()


@pytest.fixture
async def connect(nats_server, recorded):
    """Brokers with providers of their own, as in two processes; what they record comes together."""
    brokers = []

    async def one():
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(recorded))
        backend = await open_backend(ConnectOptions(url=nats_server.url))
        meters = MeterProvider(shutdown_on_exit=False)
        brokers.append(StreamBroker(trace_backend(backend, tracer_provider=provider, meter_provider=meters)))
        return brokers[-1]

    yield one
    for broker in brokers:
        await broker.aclose()


@pytest.fixture
async def stream(stream_broker):
    """A stream that takes 1000 bytes at most, cleaned up by an untraced broker."""
    await stream_broker.declare(StreamOptions("TRACED", ["traced.>"], max_msg_size=1000))


async def span(recorded, name):
    def found():
        return [each for each in recorded.get_finished_spans() if each.name == name]

    [only] = await eventually(found)
    return only


@pytest.mark.usefixtures("stream")
async def test_a_message_is_one_trace_over_two_connections(connect, recorded):
    room, worker = await connect(), await connect()
    got = []
    await worker.consume("traced.settle", got.append, durable="settle-worker")
    await room.enqueue("traced.settle", b"", idempotency_key="battle-42")
    enqueue, process = await span(recorded, "enqueue traced.settle"), await span(recorded, "process traced.settle")
    ack = await span(recorded, "ack traced.settle")
    assert process.parent.span_id == enqueue.context.span_id
    assert {each.context.trace_id for each in (process, ack)} == {enqueue.context.trace_id}
    assert enqueue.attributes["messaging.system"] == "nats"
    assert process.attributes["messaging.message.id"] == enqueue.attributes["messaging.message.id"]
    assert process.attributes["messaging.consumer.group.name"] == "settle-worker"
    assert dict(got[0].headers) == {}


async def test_others_find_the_context_where_the_standard_says(connect, broker, recorded):
    """Services in other languages look for a header of exactly this name."""
    sender = await connect()
    got = []
    await broker.subscribe("game.state", got.append)
    await sender.publish("game.state", b"")
    await eventually(lambda: got)
    sent = (await span(recorded, "publish game.state")).context
    assert list(got[0].headers) == ["traceparent"]
    assert got[0].headers["traceparent"].startswith(f"00-{sent.trace_id:032x}-{sent.span_id:016x}-")


async def test_a_request_and_its_reply_are_one_trace(connect, recorded):
    room, player = await connect(), await connect()

    async def answer(msg):
        return msg.json() + 1

    await room.respond("room.rpc", answer)
    assert (await player.request("room.rpc", 1)).json() == 2
    request, process = await span(recorded, "request room.rpc"), await span(recorded, "process room.rpc")
    assert process.parent.span_id == request.context.span_id


@pytest.mark.usefixtures("stream")
async def test_the_servers_limits_cost_the_context_and_never_the_message(connect, stream_broker, recorded):
    sb = await connect()
    limit = sb._backend.max_payload
    got = []
    await stream_broker.subscribe("game.map", got.append)
    await sb.publish("game.map", bytes(limit))
    await eventually(lambda: got)
    assert dict(got[0].headers) == {}
    assert (await span(recorded, "publish game.map")).attributes["gamebroker.context_dropped"] is True
    tight = bytes(890)  # with its id it is under the stream's limit, with the context it is not
    receipt = await sb.enqueue("traced.tight", tight, idempotency_key="k")
    assert (await stream_broker.streams.get_message("TRACED", receipt.sequence)).data == tight
    assert (await span(recorded, "enqueue traced.tight")).attributes["gamebroker.context_dropped"] is True
    with pytest.raises(PayloadTooLarge):
        await sb.enqueue("traced.huge", bytes(1100))
