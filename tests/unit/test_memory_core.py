"""The core tier of the memory backend: what NATS does, on a clock that stands still."""

import asyncio
import gc
import json

import pytest

from broker.backends import open_backend
from broker.backends.memory import ManualClock, MemoryBackend, MemoryHub
from broker.backends.memory.wire import headers_size
from broker.contracts.backend import StreamBackend
from broker.contracts.envelopes import Record
from broker.contracts.errors import BrokerClosed, InvalidSubject, NoResponders, PayloadTooLarge, RequestTimeout
from broker.contracts.headers import Headers
from broker.contracts.options import ConnectOptions, StreamOptions
from broker.contracts.status import Status


@pytest.fixture
async def hub():
    return MemoryHub(clock=ManualClock())


@pytest.fixture
async def one(hub):
    backend = MemoryBackend(hub)
    yield backend
    await backend.close()


@pytest.fixture
async def two(hub):
    backend = MemoryBackend(hub)
    yield backend
    await backend.close()


async def turns(count=5):
    for _ in range(count):
        await asyncio.sleep(0)


async def listen(backend, pattern, queue=None):
    got = []
    return got, await backend.subscribe(pattern, got.append, queue=queue)


async def test_every_matching_subscription_gets_it_in_order_the_sender_too(one, two):
    mine, _ = await listen(one, "room.*")
    theirs, _ = await listen(two, "room.>")
    other, _ = await listen(two, "hall.*")
    headers = Headers([("A", "1")])
    for number in range(3):
        one.publish("room.1", b"%d" % number, headers, "reply.here")
    assert mine == []
    await one.flush(timeout=1)
    assert [each.data for each in mine] == [each.data for each in theirs] == [b"0", b"1", b"2"]
    assert (mine[0].subject, mine[0].headers, mine[0].reply_to) == ("room.1", headers, "reply.here")
    assert other == []


async def test_the_data_is_a_copy_of_what_was_passed(one):
    got, _ = await listen(one, "a")
    data = bytearray(b"before")
    one.publish("a", data, None)
    data[:] = b"after!"
    await one.flush(timeout=1)
    assert got[0].data == b"before"
    assert isinstance(got[0].data, bytes)


async def test_what_a_handler_publishes_arrives_on_a_later_turn(one):
    seen = []

    def echo(_):
        seen.append("in")
        if len(seen) < 4:
            one.publish("a", b"", None)
        seen.append("out")

    await one.subscribe("a", echo, queue=None)
    one.publish("a", b"", None)
    await turns()
    assert seen == ["in", "out"] * 3


async def test_one_member_of_a_queue_group_gets_it(one, two):
    first, interest = await listen(one, "job.*", queue="workers")
    second, _ = await listen(two, "job.>", queue="workers")
    alone, _ = await listen(two, "job.1", queue="others")
    for _ in range(10):
        one.publish("job.1", b"", None)
    await one.flush(timeout=1)
    assert (len(first), len(second), len(alone)) == (5, 5, 10)
    await interest.stop()
    one.publish("job.1", b"", None)
    await one.flush(timeout=1)
    assert (len(first), len(second)) == (5, 6)


async def test_a_stopped_subscription_gets_nothing_even_of_what_is_on_its_way(one):
    got, interest = await listen(one, "a")
    one.publish("a", b"", None)
    await interest.stop()
    await interest.stop()
    await turns()
    assert got == []


async def test_a_subscription_does_not_see_what_the_same_connection_sent_before(one):
    one.publish("a", b"early", None)
    got, _ = await listen(one, "a")
    await one.flush(timeout=1)
    assert got == []


async def test_a_receiver_that_raises_does_not_mute_the_others(one):
    complaints = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context["message"]))

    def broken(_):
        raise RuntimeError

    await one.subscribe("a", broken, queue=None)
    got, _ = await listen(one, "a")
    one.publish("a", b"", None)
    await one.flush(timeout=1)
    assert len(got) == 1
    assert complaints == ["a subscription on 'a' raised"]


async def test_headers_count_towards_the_payload_as_on_the_wire(one):
    headers = Headers([("Name", "välue")])
    block = "NATS/1.0\r\nName: välue\r\n\r\n".encode()
    assert headers_size(headers) == len(block)
    assert headers_size(None) == headers_size(Headers()) == 0
    one.publish("a", b"x" * (one.max_payload - len(block)), headers)
    with pytest.raises(PayloadTooLarge) as caught:
        one.publish("a", b"x" * (one.max_payload - len(block) + 1), headers)
    assert (caught.value.size, caught.value.limit, caught.value.subject) == (one.max_payload + 1, 1 << 20, "a")
    with pytest.raises(PayloadTooLarge):
        await one.request("a", b"x" * (one.max_payload + 1), None, timeout=1)


async def test_subjects_are_checked_as_by_the_real_backend(one):
    with pytest.raises(InvalidSubject):
        one.publish("a.*", b"", None)
    with pytest.raises(InvalidSubject):
        await one.subscribe("a..b", print, queue=None)


async def test_beyond_the_outbound_limit_the_oldest_are_dropped_and_counted(hub):
    backend = MemoryBackend(hub, outbound_limit=100)
    got, _ = await listen(backend, "a")
    assert not backend.congested
    for number in range(15):
        backend.publish("a", b"%010d" % number, None)
    assert backend.congested
    await backend.writable()
    assert not backend.congested
    assert [int(each.data) for each in got] == list(range(5, 15))
    assert backend.stats.dropped_outbound == 5
    await backend.close()


async def test_a_request_gets_the_first_reply(one, two):
    async def responder(envelope):
        two.publish(envelope.reply_to, b"first", None)
        two.publish(envelope.reply_to, b"second", None)

    tasks = []
    await two.subscribe("q", lambda e: tasks.append(asyncio.ensure_future(responder(e))), queue="g")
    reply = await one.request("q", b"?", Headers([("A", "b")]), timeout=1)
    assert reply.data == b"first"
    await turns()
    assert (one.stats.requests, one.stats.request_timeouts) == (1, 0)
    assert one._hub.clock.timers == 0


async def test_nobody_there_is_said_at_once_and_silence_after_the_timeout(one, two):
    with pytest.raises(NoResponders) as caught:
        await one.request("q", b"?", None, timeout=1)
    assert caught.value.subject == "q"
    await listen(two, "q")
    asking = asyncio.ensure_future(one.request("q", b"?", None, timeout=2))
    await turns()
    one._hub.clock.advance(1.9)
    await turns()
    assert not asking.done()
    one._hub.clock.advance(0.1)
    with pytest.raises(RequestTimeout):
        await asking
    assert one.stats.request_timeouts == 1
    with pytest.raises(RequestTimeout):
        await one.request("q", b"?", None, timeout=0)


async def test_a_publish_with_a_reply_that_nobody_hears_brings_the_503_envelope(one):
    inbox = one.new_inbox()
    assert inbox != one.new_inbox()
    assert inbox.startswith("_INBOX.")
    got, _ = await listen(one, inbox)
    one.publish("nobody", b"", None, inbox)
    await one.flush(timeout=1)
    assert (got[0].headers.status, got[0].subject, got[0].data) == (503, inbox, b"")


async def test_a_captured_subject_answers_a_request_with_the_servers_receipt(one):
    await one.create_stream(StreamOptions("S", ["s.>"], max_msgs=1))
    reply = await one.request("s.1", b"x", None, timeout=1)
    assert json.loads(reply.data) == {"stream": "S", "seq": 1}
    refused = json.loads((await one.request("s.1", b"x", None, timeout=1)).data)
    assert refused["error"]["err_code"] == 10077


async def test_cancelling_a_request_leaves_nothing_behind(one, two):
    await listen(two, "q")
    asking = asyncio.ensure_future(one.request("q", b"?", None, timeout=2))
    await turns()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert one._hub.clock.timers == 0
    assert one._replies == {}


async def test_close_ends_what_is_in_flight_and_refuses_everything_after(hub, two):
    backend = MemoryBackend(hub)
    await listen(two, "q")
    got, interest = await listen(backend, "a")
    asking = asyncio.ensure_future(backend.request("q", b"?", None, timeout=9))
    await turns()
    backend.publish("a", b"never sent", None)
    receipt = backend.append(Record("s.1", b"", None, "id"), timeout=1)
    await backend.close()
    await backend.close()
    with pytest.raises(BrokerClosed):
        await asking
    with pytest.raises(BrokerClosed):
        await receipt
    assert backend.board.status is Status.CLOSED
    assert backend.stats.dropped_outbound == 1
    assert got == []
    assert hub.clock.timers == 0
    for refused in (
        lambda: backend.request("a", b"", None, timeout=1),
        lambda: backend.subscribe("a", print, queue=None),
        lambda: backend.flush(timeout=1),
        backend.writable,
        lambda: backend.stream_info("S"),
        lambda: backend.find_stream("s"),
        lambda: backend.list_streams().__anext__(),
        lambda: backend.create_stream(StreamOptions("S", ["s"])),
    ):
        with pytest.raises(BrokerClosed):
            await refused()
    with pytest.raises(BrokerClosed):
        backend.publish("a", b"", None)
    with pytest.raises(BrokerClosed):
        backend.append(Record("s.1", b"", None, "id"), timeout=1)
    await interest.stop()


async def test_connections_of_one_name_share_a_hub_that_dies_with_the_last():
    async def connect(url):
        backend = await open_backend(ConnectOptions(url=url, inbox_prefix="_IN.me"))
        assert StreamBackend in type(backend).__mro__
        return backend

    first, second, other = await connect("memory://a"), await connect("memory://a"), await connect("memory://")
    await first.create_stream(StreamOptions("S", ["s"]))
    assert (await second.stream_info("S")).messages == 0
    assert await other.find_stream("s") is None
    assert first.new_inbox().startswith("_IN.me.")
    await first.close()
    assert await second.find_stream("s") == "S"
    await second.close()
    again = await connect("memory://a")
    assert await again.find_stream("s") is None
    await again.close()
    await other.close()


async def test_a_forgotten_connection_takes_its_hub_along():
    leaked = await open_backend(ConnectOptions(url="memory://leak"))
    await leaked.create_stream(StreamOptions("S", ["s"]))
    del leaked
    gc.collect()
    fresh = await open_backend(ConnectOptions(url="memory://leak"))
    assert await fresh.find_stream("s") is None
    await fresh.close()


def test_hubs_of_different_event_loops_are_different():
    async def streams():
        backend = await open_backend(ConnectOptions(url="memory://loops"))
        kept.append(backend)
        found = await backend.find_stream("s")
        await backend.create_stream(StreamOptions("S", ["s"]))
        return found

    kept = []
    assert [asyncio.run(streams()) for _ in range(2)] == [None, None]


def test_what_it_claims():
    claims = MemoryBackend.capabilities
    assert not claims.survives_restart
    assert not claims.crosses_processes
    assert not claims.copies_streams
    assert not claims.groups_by_priority
    assert sum(claims) == len(claims) - 4
