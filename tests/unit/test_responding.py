"""What a responder's log says of a reply that cannot be sent."""

import asyncio
import logging
from uuid import uuid4

import pytest
import pytest_asyncio

from broker import Broker, Headers, NoResponders, RemoteError
from broker.contracts.envelopes import Envelope
from broker.responding import checked_reply
from broker.testing.waiting import eventually


@pytest_asyncio.fixture
async def sb():
    async with Broker.connect(f"memory://{uuid4().hex}") as connected:
        yield connected


@pytest.mark.parametrize(
    "reply", [object(), {"deep": [{1, 2, object()}]}, b"x" * (2 << 20)], ids=["object", "set", "long"]
)
@pytest.mark.parametrize("plain", [True, False], ids=["plain", "async"])
async def test_a_reply_that_cannot_be_sent_is_logged_once_with_one_traceback(sb, caplog, reply, plain):
    logging.getLogger("broker").setLevel(logging.WARNING)

    async def answer(_):
        return reply

    await sb.respond("room.join", (lambda _: reply) if plain else answer)
    with pytest.raises(RemoteError, match=r"room\.join"):
        await sb.request("room.join", b"", timeout=15)
    [record] = caplog.records
    assert caplog.text.count("Traceback") == 1
    assert "room.join" in record.getMessage()
    assert "_INBOX" not in caplog.text


async def test_a_reply_that_nobody_can_send_any_more_is_logged_once(sb, caplog):
    logging.getLogger("broker").setLevel(logging.WARNING)

    async def hang_up(_):
        await sb._backend.close()
        return "too late"

    await sb.respond("room.leave", hang_up)
    sb._backend.publish("room.leave", b"", None, "_INBOX.nobody")
    await eventually(lambda: caplog.records)
    await asyncio.sleep(0.05)
    [record] = caplog.records
    assert "room.leave" in record.getMessage()


def test_a_reply_with_a_status_and_a_body_is_somebodys_reply():
    """Nobody listening is said with nothing else: whoever sends a body has run."""
    spoken = Envelope("inbox", b"busy", Headers(status=503))
    assert checked_reply(spoken, "room.join") is spoken
    with pytest.raises(NoResponders, match=r"room\.join"):
        checked_reply(Envelope("inbox", b"", Headers(status=503)), "room.join")


async def test_replies_are_counted_as_published(sb):
    await sb.respond("room.join", lambda msg: msg.data)
    await sb.request("room.join", b"ann")
    assert (sb.stats.published, sb.stats.requests) == (1, 1)


async def test_an_error_reply_is_one_to_clients_of_services_too(sb):
    def refuse(_):
        raise KeyError("no such\r\nroom\0")

    replies = []
    await sb._backend.subscribe("_INBOX.asker", replies.append, queue=None)
    await sb.respond("room.join", refuse)
    sb._backend.publish("room.join", b"", None, "_INBOX.asker")
    await eventually(lambda: replies)
    assert replies[0].headers["Gamebroker-Error"] == "KeyError"
    assert replies[0].headers["Nats-Service-Error-Code"] == "500"
    assert replies[0].headers["Nats-Service-Error"] == r"KeyError: 'no such\r\nroom\x00'"


async def test_what_it_says_of_an_error_fits_on_one_line_of_a_header(sb):
    class Said(Exception):
        def __str__(self):
            return "no such\r\nroom:\0 " + "x" * 5000

    def refuse(_):
        raise Said

    replies = []
    await sb._backend.subscribe("_INBOX.asker", replies.append, queue=None)
    await sb.respond("room.join", refuse)
    sb._backend.publish("room.join", b"", None, "_INBOX.asker")
    await eventually(lambda: replies)
    words = replies[0].headers["Nats-Service-Error"]
    assert words.startswith("Said: no such room: xxx")
    assert len(words) < 1100


@pytest.mark.parametrize(("words", "told"), [([("Nats-Service-Error", "full")], "409: full"), ([], "409: ")])
async def test_the_error_reply_of_a_service_is_raised(sb, words, told):
    def answer(envelope):
        headers = Headers([*words, ("Nats-Service-Error-Code", "409")])
        sb._backend.publish(envelope.reply_to, b"8 of 8", headers)

    await sb._backend.subscribe("room.join", answer, queue=None)
    with pytest.raises(RemoteError) as caught:
        await sb.request("room.join", b"", timeout=15)
    assert (str(caught.value), caught.value.kind, caught.value.subject) == (told, "409", "room.join")
    with pytest.raises(RemoteError, match="409"):
        [each async for each in sb.request_many("room.join", b"", timeout=15, max_replies=1)]
