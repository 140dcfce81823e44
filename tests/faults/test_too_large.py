"""One byte over what the server takes, headers counted: told at once, and it costs no connection."""

import pytest
import pytest_asyncio

from broker import PayloadTooLarge, RemoteError, StreamBroker, StreamOptions
from broker.server import NatsServer
from broker.testing.waiting import eventually

pytestmark = [pytest.mark.nats, pytest.mark.fault]

LIMIT = 16 << 10
HEADERS = {"Room": "42", "Player": "ann"}
ON_THE_WIRE = len(b"NATS/1.0\r\nRoom: 42\r\nPlayer: ann\r\n\r\n")


@pytest_asyncio.fixture
async def sb(link):
    async with (
        NatsServer(sync_interval=None, max_payload=LIMIT) as server,
        StreamBroker.connect(server.url, link=link) as sb,
    ):
        yield sb


async def largest(send):
    """The body that just fits, by what the error says of one that does not."""
    with pytest.raises(PayloadTooLarge) as caught:
        await send(b"x" * LIMIT)
    assert caught.value.limit == LIMIT
    return b"x" * (LIMIT - (caught.value.size - LIMIT))


def publish_nowait(sb):
    async def send(body):
        sb.publish_nowait("a.b", body, headers=HEADERS)

    return send


def publish(sb):
    return lambda body: sb.publish("a.b", body, headers=HEADERS)


def request(sb):
    return lambda body: sb.request("a.b", body, headers=HEADERS, timeout=10)


def enqueue(sb):
    return lambda body: sb.enqueue("s.a", body, headers=HEADERS, idempotency_key="key")


@pytest.mark.parametrize("verb", [publish_nowait, publish, request, enqueue])
async def test_one_byte_too_many_is_told_and_the_largest_passes(sb, verb):
    await sb.declare(StreamOptions("S", ["s.>"]))
    seen = []

    def hear(msg):
        seen.append(len(msg.data))
        return len(msg.data)

    await sb.respond("a.b", hear)
    await sb.consume("s.a", hear, durable="w")
    send = verb(sb)
    body = await largest(send)
    if verb is not enqueue:  # which adds headers of its own
        assert len(body) == LIMIT - ON_THE_WIRE
    with pytest.raises(PayloadTooLarge) as caught:
        await send(body + b"x")
    assert caught.value.size == LIMIT + 1
    await send(body)
    await eventually(lambda: seen == [len(body)])
    assert sb.status == "connected"
    assert (sb.stats.reconnects, sb.stats.protocol_errors) == (0, 0)


async def test_a_reply_too_large_is_an_error_reply_and_the_next_one_comes(sb):
    async def answer(msg):
        return b"x" * msg.json()

    await sb.respond("size", answer)
    await sb.respond("size.inline", lambda msg: b"x" * msg.json())
    for subject in ("size", "size.inline"):
        with pytest.raises(RemoteError) as caught:
            await sb.request(subject, LIMIT + 1, timeout=10)
        assert caught.value.kind == "PayloadTooLarge"
        assert len((await sb.request(subject, LIMIT, timeout=10)).data) == LIMIT
    assert sb.stats.reconnects == 0


async def test_a_reply_too_large_because_of_its_headers_is_told_to_the_responder(sb):
    async def answer(msg):
        with pytest.raises(PayloadTooLarge):
            await msg.respond(b"x" * (LIMIT - ON_THE_WIRE + 1), headers=HEADERS)
        await msg.respond(b"x" * (LIMIT - ON_THE_WIRE), headers=HEADERS)

    await sb.respond("size", answer)
    reply = await sb.request("size", b"", timeout=10)
    assert (len(reply.data), reply.headers["Player"]) == (LIMIT - ON_THE_WIRE, "ann")
