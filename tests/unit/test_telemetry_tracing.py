"""One message is one trace: from the call that sends it, through its handler, to its settlement."""

import asyncio

import pytest
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

from broker import ConsumerOptions, Entry, RequestTimeout, StreamBroker, StreamOptions
from broker.backends.memory import MemoryBackend, MemoryHub
from broker.contracts.envelopes import Envelope, Record
from broker.telemetry import subject_templates, trace_backend
from broker.testing.waiting import eventually
from tests.traces import Traces, closing, is_child


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


def ignore(_):
    """A handler that is content."""


async def test_enqueue_and_its_handler_are_one_trace(sb, traces):
    seen = []

    async def settle(_):
        seen.append(trace.get_current_span().get_span_context().span_id)

    receipt = await sb.enqueue("battle.settle", {"winner": 7}, idempotency_key="battle-42")
    await sb.consume("battle.settle", settle, durable="settle-worker")
    process = await traces.one("process battle.settle")
    enqueue = await traces.one("enqueue battle.settle")
    assert is_child(process, enqueue)
    assert seen == [process.context.span_id], "the handler's own spans become children"
    assert (enqueue.kind, process.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    assert (
        enqueue.attributes.items()
        >= {
            "messaging.system": "memory",
            "messaging.operation.name": "enqueue",
            "messaging.operation.type": "send",
            "messaging.destination.name": "battle.settle",
            "gamebroker.stream": "BATTLES_2",
            "gamebroker.sequence": receipt.sequence,
        }.items()
    )
    assert (
        process.attributes.items()
        >= {
            "messaging.operation.type": "process",
            "messaging.destination.name": "battle.settle",
            "messaging.consumer.group.name": "settle-worker",
            "messaging.message.id": enqueue.attributes["messaging.message.id"],
            "gamebroker.sequence": 1,
            "gamebroker.attempt": 1,
        }.items()
    )


async def test_the_settlement_belongs_to_the_same_trace(sb, traces):
    await sb.enqueue("battle.settle", b"")
    await sb.consume("battle.settle", ignore, durable="worker")
    enqueue, ack = await traces.one("enqueue battle.settle"), await traces.one("ack battle.settle")
    assert ack.context.trace_id == enqueue.context.trace_id
    assert ack.kind is SpanKind.CLIENT
    assert ack.attributes["messaging.operation.type"] == "settle"


async def test_a_settlement_inside_the_handler_is_its_child(sb, traces):
    async def reject(msg):
        await msg.term("no such battle")

    await sb.enqueue("battle.settle", b"")
    await sb.consume("battle.settle", reject, durable="worker", dead_letter=False)
    process, term = await traces.one("process battle.settle"), await traces.one("term battle.settle")
    assert is_child(term, process)
    assert term.attributes["gamebroker.reason"] == "no such battle"


async def test_receive_says_what_came_and_nothing_when_nothing_came(sb, traces):
    async with sb.pull("battle.settle", durable="puller") as puller:
        assert await puller.fetch(10, timeout=0.05) == []
        assert not [name for name in traces.names if name.startswith("receive")]
        await sb.enqueue_many([Entry("battle.settle", b"1"), Entry("battle.settle", b"2")])
        assert len(await puller.fetch(10, timeout=1)) == 2
    receive = await traces.one("receive BATTLES_2")
    assert receive.kind is SpanKind.CLIENT
    assert receive.attributes["messaging.batch.message_count"] == 2
    senders = {span.context.span_id for span in traces.named("enqueue battle.settle")}
    assert {link.context.span_id for link in receive.links} == senders


async def test_a_batch_of_acks_links_to_what_it_settles(traces, hub):
    backend = traces.wrap(hub)
    await backend.create_stream(StreamOptions("S", ["s.>"]))
    for number in range(3):
        await backend.append(Record("s.a", b"", None, f"id-{number}"), timeout=1)
    source = await backend.open_consumer(ConsumerOptions(durable="w", filters=["s.>"]))
    await source.ack(await source.fetch(10, timeout=1))
    await source.ack([])
    await backend.close()
    ack = await traces.one("ack S")
    assert ack.attributes["messaging.batch.message_count"] == 3
    assert {link.context.span_id for link in ack.links} == {
        span.context.span_id for span in traces.named("enqueue s.a")
    }


async def test_a_cancelled_fetch_leaves_no_span_and_loses_nothing(traces, hub):
    backend = traces.wrap(hub)
    await backend.create_stream(StreamOptions("S", ["s.>"]))
    source = await backend.open_consumer(ConsumerOptions(durable="w", filters=["s.>"]))
    fetch = asyncio.ensure_future(source.fetch(1, timeout=5))
    await asyncio.sleep(0.01)
    fetch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetch
    assert "receive S" not in traces.names
    await backend.append(Record("s.a", b"kept", None, "id"), timeout=1)
    assert [each.data for each in await source.fetch(1, timeout=1)] == [b"kept"]
    await backend.close()


async def test_publish_and_its_subscriber_are_one_trace(sb, traces):
    await sb.subscribe("battle.*.state", ignore)
    await sb.publish("battle.42.state", b"frame")
    process, publish = await traces.one("process battle.*.state"), await traces.one("publish battle.*.state")
    assert is_child(process, publish)
    assert publish.attributes["messaging.destination.name"] == "battle.42.state"
    assert publish.attributes["messaging.destination.template"] == "battle.*.state"


async def test_request_responder_and_reply_are_one_trace(sb, traces):
    async def answer(msg):
        await asyncio.sleep(0)
        return {"pong": msg.json()}

    await sb.respond("room.rpc", answer)
    reply = await sb.request("room.rpc", 1)
    assert reply.json() == {"pong": 1}
    process, request = await traces.one("process room.rpc"), await traces.one("request room.rpc")
    assert is_child(process, request)
    back = await traces.one("publish _INBOX.*.*")
    assert is_child(back, process)
    assert request.end_time >= back.start_time


async def test_an_error_reply_marks_the_request(sb, traces):
    def refuse(_):
        raise LookupError("no such room")

    await sb.respond("room.rpc", refuse)
    with pytest.raises(Exception, match="no such room"):
        await sb.request("room.rpc", 1)
    request = await traces.one("request room.rpc")
    assert request.status.status_code is StatusCode.ERROR
    assert request.attributes["error.type"] == "LookupError"


async def test_a_handlers_error_is_recorded_and_still_the_brokers_to_handle(sb, traces):
    async def fail(msg):
        if msg.attempt == 1:
            raise ValueError("bad result")

    await sb.enqueue("battle.settle", b"")
    await sb.consume("battle.settle", fail, durable="worker", backoff=(0.01,))
    await eventually(lambda: len(traces.named("process battle.settle")) == 2)
    first, second = traces.named("process battle.settle")
    assert first.status.status_code is StatusCode.ERROR
    assert first.attributes["error.type"] == "ValueError"
    assert [event.name for event in first.events] == ["exception"]
    assert second.status.is_ok
    assert second.attributes["gamebroker.attempt"] == 2
    assert sb.stats.handler_errors == 1
    assert await traces.one("nak battle.settle")


async def test_a_failed_request_is_recorded_and_raised(sb, traces):
    await sb.subscribe("room.silent", ignore)
    with pytest.raises(RequestTimeout):
        await sb.request("room.silent", b"", timeout=0.05)
    request = await traces.one("request room.silent")
    assert request.status.status_code is StatusCode.ERROR
    assert request.attributes["error.type"] == "RequestTimeout"


async def test_a_failed_append_is_recorded_and_raised(traces, hub):
    backend = traces.wrap(hub)
    with pytest.raises(Exception, match="no stream") as caught:
        await backend.append(Record("nowhere", b"", None, "id"), timeout=0.2)
    span = await traces.one("enqueue nowhere")
    assert span.attributes["error.type"] == type(caught.value).__name__
    await backend.close()


async def test_a_cancelled_append_ends_its_span_without_an_error(traces, hub):
    backend = traces.wrap(hub)
    await backend.create_stream(StreamOptions("S", ["s.>"]))
    future = backend.append(Record("s.a", b"", None, "id"), timeout=1)
    future.cancel()
    with pytest.raises(asyncio.CancelledError):
        await future
    assert (await traces.one("enqueue s.a")).status.is_ok
    await backend.close()


async def test_a_dead_letter_stays_in_the_trace_of_its_message(sb, traces):
    async def fail(_):
        raise ValueError("never")

    await sb.enqueue("battle.settle", b"")
    await sb.consume("battle.settle", fail, durable="worker", max_deliver=1)
    buried = await eventually(lambda: [span for span in traces.names if span.startswith("enqueue gamebroker.dead")])
    letter, enqueue = traces.named(buried[0])[0], await traces.one("enqueue battle.settle")
    assert is_child(letter, enqueue)
    [stored] = [each async for each in sb.dead_letters.list()]
    assert stored is not None


async def test_a_consumers_startup_span_does_not_swallow_its_life(sb, traces):
    """A consume loop inherits the context it is started in; what it does later is no part of that."""
    with traces.provider.get_tracer("test").start_as_current_span("startup") as startup:
        await sb.consume("battle.settle", ignore, durable="worker")
    await sb.enqueue("battle.settle", b"")
    ack, receive = await traces.one("ack battle.settle"), await traces.one("receive BATTLES_2")
    enqueue = await traces.one("enqueue battle.settle")
    assert ack.context.trace_id == enqueue.context.trace_id
    assert receive.parent is None
    assert startup.get_span_context().trace_id not in {ack.context.trace_id, receive.context.trace_id}


async def test_names_can_be_given_by_template(traces, hub):
    name = subject_templates("guild.*.chat", "guild.>")
    async with closing(StreamBroker(traces.wrap(hub, subject_name=name, system="nats"))) as sb:
        for subject in ("guild.wolves.chat", "guild.wolves.war.start", "lobby.7"):
            await sb.publish(subject, b"")
    assert traces.names == {"publish guild.*.chat", "publish guild.>", "publish lobby.*"}
    assert (await traces.one("publish lobby.*")).attributes["messaging.system"] == "nats"


async def test_a_process_with_metrics_only_does_not_cut_the_trace(traces, hub):
    """It records no span of its own and passes on the one it was given."""
    middle = StreamBroker(
        trace_backend(MemoryBackend(hub), tracer_provider=trace.NoOpTracerProvider(), meter_provider=traces.meters)
    )
    end = StreamBroker(traces.wrap(hub))

    async def relay(msg):
        await middle.publish("second", msg.data)

    async with closing(StreamBroker(traces.wrap(hub))) as start, closing(middle), closing(end):
        await middle.subscribe("first", relay)
        await end.subscribe("second", ignore)
        await start.publish("first", b"")
        first, last = await traces.one("publish first"), await traces.one("process second")
    assert is_child(last, first)


async def test_requests_nobody_answers_are_not_remembered_for_ever(traces, hub):
    backend = traces.wrap(hub)
    for number in range(1500):
        with backend.around(Envelope("room.rpc", b"", None, f"_INBOX.{number}")):
            pass
    assert len(backend._probe._replies) == 1024
    await backend.close()
