"""The context a message carries: whose it is, who sees it, and what happens when it does not fit."""

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import StatusCode

from broker import StreamBroker, StreamOptions
from broker.backends.memory import MemoryHub
from broker.contracts.envelopes import Record
from broker.testing.waiting import eventually
from tests.traces import Traces, closing


@pytest.fixture
def traces():
    return Traces()


@pytest.fixture
def hub():
    return MemoryHub()


@pytest.fixture
async def sb(traces, hub):
    async with closing(StreamBroker(traces.wrap(hub))) as connected:
        await connected.declare(StreamOptions("BATTLES_2", ["battle.settle", "battle.*.log"], max_msg_size=1000))
        yield connected


async def test_baggage_travels_and_ends_with_the_handler(sb, traces):
    seen = []

    async def handle(_):
        seen.append(baggage.get_all())

    token = context.attach(baggage.set_baggage("tenant", "eu"))
    try:
        await sb.enqueue("battle.settle", b"")
    finally:
        context.detach(token)
    await sb.consume("battle.settle", handle, durable="worker")
    await traces.one("process battle.settle")
    assert seen == [{"tenant": "eu"}]
    assert baggage.get_all() == {}


async def test_a_callers_own_context_is_kept_and_linked(sb, traces):
    theirs = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    got = []
    await sb.subscribe("battle.42.state", lambda msg: got.append(msg.envelope.headers.get_all("traceparent")))
    with traces.provider.get_tracer("test").start_as_current_span("tick") as tick:
        await sb.publish("battle.42.state", b"", headers={"traceparent": theirs})
    publish, process = await traces.one("publish battle.*.state"), await traces.one("process battle.*.state")
    assert got == [[theirs]]
    assert publish.parent.span_id == tick.get_span_context().span_id
    assert [f"{link.context.span_id:016x}" for link in publish.links] == ["b7ad6b7169203331"]
    assert f"{process.parent.span_id:016x}" == "b7ad6b7169203331"


async def test_the_application_sees_only_its_own_headers(sb):
    """In any verb that receives: the context is current around the handler, not data in its message."""
    mine = {"X-Room": "42"}
    got = []
    await sb.subscribe("core", got.append)
    await sb.publish("core", b"", headers=mine)
    await sb.enqueue("battle.settle", b"", headers=mine)
    await sb.consume("battle.settle", got.append, durable="worker")
    await eventually(lambda: len(got) == 2)
    got.append(await sb.streams.get_message("BATTLES_2", 1))
    await sb.respond("rpc", got.append)
    got.append(await sb.request("rpc", b"", headers=mine))
    assert [dict(msg.headers) for msg in got] == [mine, mine, mine, mine, {}]


async def test_a_frame_nobody_samples_is_sent_without_headers(hub):
    traces = Traces(sampler=ALWAYS_OFF)
    got = []
    async with closing(StreamBroker(traces.wrap(hub))) as sb:
        await sb.subscribe("battle.42.state", got.append)
        await sb.publish("battle.42.state", b"")
        await eventually(lambda: got)
    assert got[0].envelope.headers is None


async def test_what_is_stored_says_that_nobody_samples_it(hub):
    """Or the worker's sampler would record half of a trace."""
    traces = Traces(sampler=ALWAYS_OFF)
    got = []
    async with closing(StreamBroker(traces.wrap(hub))) as sb:
        await sb.declare(StreamOptions("S", ["s"]))
        await sb.enqueue("s", b"")
        await sb.consume("s", got.append, durable="w")
        await eventually(lambda: got)
    flags = int(got[0].envelope.headers["traceparent"].rpartition("-")[2], 16)
    assert not flags & trace.TraceFlags.SAMPLED
    assert not traces.names


@pytest.mark.parametrize("spare", [0, 1, 40])
async def test_a_message_that_fits_only_without_its_context_is_sent_without(traces, spare):
    hub = MemoryHub(max_payload=2048)
    got = []
    async with closing(StreamBroker(traces.wrap(hub))) as sb:
        await sb.subscribe("edge", got.append)
        await sb.respond("ask", len)
        await sb.publish("edge", bytes(2048 - spare))
        await eventually(lambda: got)
        assert got[0].envelope.headers is None
        with pytest.raises(Exception, match="limit"):
            await sb.publish("edge", bytes(2049))
    sent, refused = traces.named("publish edge")
    assert sent.attributes["gamebroker.context_dropped"] is True
    assert sent.status.is_ok
    assert refused.attributes["error.type"] == "PayloadTooLarge"


async def test_a_request_that_fits_only_without_its_context_is_asked_without(traces):
    hub = MemoryHub(max_payload=2048)
    async with closing(StreamBroker(traces.wrap(hub))) as sb:
        await sb.respond("ask", lambda msg: len(msg.data))
        assert (await sb.request("ask", bytes(2048))).json() == 2048
    assert (await traces.one("request ask")).attributes["gamebroker.context_dropped"] is True


async def test_a_stream_that_refuses_the_context_gets_the_message(traces, hub):
    """Its own limit is known to the server only."""
    backend = traces.wrap(hub)
    await backend.create_stream(StreamOptions("TIGHT", ["tight"], max_msg_size=150))
    receipt = await backend.append(Record("tight", bytes(100), None, "id"), timeout=1)
    stored = await backend.get_message("TIGHT", sequence=receipt.sequence, last_of=None)
    assert "traceparent" not in (stored.headers or {})
    with pytest.raises(Exception, match=r"exceed|size"):
        await backend.append(Record("tight", bytes(400), None, "id-2"), timeout=1)
    kept, refused = traces.named("enqueue tight")
    assert kept.attributes["gamebroker.context_dropped"] is True
    assert kept.status.is_ok
    assert refused.status.status_code is StatusCode.ERROR
    await backend.close()
