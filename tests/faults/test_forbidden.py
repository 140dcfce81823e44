"""What the server forbids: the call in flight hears of it at once, by name, and the connection lives."""

import asyncio
import logging
from time import monotonic

import pytest
import pytest_asyncio

from broker import PermissionDenied, StreamBroker, StreamOptions
from broker.server import NatsServer
from broker.testing.waiting import eventually

pytestmark = [pytest.mark.nats, pytest.mark.fault]

USERS = """
accounts { GAME {
  jetstream: enabled
  users: [
    { user: admin, password: p }
    { user: role, password: p, permissions: {
        publish: { deny: ["Secret.>"] }, subscribe: { allow: ["Crews Crew", "open", "open.>", "_INBOX.>"] } } }
  ] } }
"""
AT_ONCE = 1.0
"""Seconds; ten times what is promised, for a busy machine. Every time-out below is far longer."""


@pytest_asyncio.fixture
async def sb(link):
    async with NatsServer(sync_interval=None, config=USERS, login={"user": "admin", "pass": "p"}) as server:
        async with StreamBroker.connect(server.url, link=link, user="admin", password="p") as admin:
            await admin.declare(StreamOptions("SECRETS", ["Secret.Orders.>"]))
        async with StreamBroker.connect(server.url, link=link, user="role", password="p") as sb:
            yield sb


CALLS = {
    "request": ("publish", lambda sb: sb.request("Secret.Room", 1, timeout=15)),
    "request_many": ("publish", lambda sb: anext(sb.request_many("Secret.Room", 1, timeout=15))),
    "enqueue": ("publish", lambda sb: sb.enqueue("Secret.Orders.New", 1)),
    "subscribe": ("subscribe", lambda sb: sb.subscribe("Secret.Room", print)),
    "subscribe in a queue": ("subscribe", lambda sb: sb.subscribe("Secret.Room", print, queue="Crew")),
    "respond": ("subscribe", lambda sb: sb.respond("Secret.Room", print)),
    "request, quoted": ("publish", lambda sb: sb.request('Secret."Room\\', 1, timeout=15)),
    "subscribe, quoted": ("subscribe", lambda sb: sb.subscribe('Secret."Room\\', print)),
    "enqueue, quoted": ("publish", lambda sb: sb.enqueue('Secret.Orders."New\\', 1)),
}
FORBIDDEN = {"Secret.Room", "Secret.Orders.New", 'Secret."Room\\', 'Secret.Orders."New\\'}


@pytest.mark.parametrize("name", CALLS)
async def test_the_call_in_flight_fails_at_once_with_verb_and_subject(sb, name):
    verb, call = CALLS[name]
    for _ in range(2):
        began = monotonic()
        with pytest.raises(PermissionDenied) as caught:
            await call(sb)
        assert monotonic() - began < AT_ONCE
        assert caught.value.verb == verb
        assert caught.value.subject in FORBIDDEN
    await still_there(sb)


@pytest.mark.parametrize("queue", [None, "crew"])
async def test_a_push_consumer_whose_subject_may_not_be_listened_to_ends_by_name(link, queue):
    login = {"user": "admin", "pass": "p"}
    async with (
        NatsServer(sync_interval=None, config=USERS, login=login) as server,
        StreamBroker.connect(server.url, link=link, user="role", password="p") as sb,
    ):
        await sb.declare(StreamOptions("OPEN", ["open.>"]))
        worker = await sb.push_subscribe("open.a", print, durable="w", queue=queue, dead_letter=False)
        with pytest.raises(PermissionDenied) as caught:
            await asyncio.wait_for(worker.wait(), 10)
        assert (caught.value.verb, caught.value.subject) == ("subscribe", "gamebroker.push.OPEN.w")
        async with await sb.subscribe("open.still") as there:
            await sb.publish("open.still", b"x")
            assert (await asyncio.wait_for(anext(there), 10)).data == b"x"


async def test_a_plain_subscription_refused_says_nothing_of_one_in_a_queue(sb):
    plain, in_queue, other = await asyncio.gather(
        *(sb.subscribe("Crews", print, queue=queue) for queue in (None, "Crew", "Others")), return_exceptions=True
    )
    assert isinstance(plain, PermissionDenied)
    assert (plain.queue, other.queue) == (None, "Others")
    assert not isinstance(in_queue, BaseException)


async def test_other_calls_in_flight_go_on(sb):
    async def slow(msg):
        await asyncio.sleep(0.3)
        return msg.json()

    await sb.respond("open", slow)
    fine = asyncio.create_task(sb.request("open", 1, timeout=15))
    with pytest.raises(PermissionDenied):
        await sb.request("Secret.Room", 1, timeout=15)
    assert (await fine).json() == 1


@pytest.mark.parametrize("awaited", [True, False])
async def test_publishing_is_counted_and_logged_in_its_own_case(sb, caplog, awaited):
    logging.getLogger("broker").setLevel(logging.WARNING)
    for _ in range(3):
        if awaited:
            await sb.publish("Secret.Room", 1)
        else:
            sb.publish_nowait("Secret.Room", 1)
    await eventually(lambda: sb.stats.protocol_errors == 3)
    assert sum('Publish to "Secret.Room"' in each.getMessage() for each in caplog.records) == 3
    await still_there(sb)


async def still_there(sb):
    seen = []
    subscription = await sb.subscribe("open.room", lambda msg: seen.append(msg.json()))
    await sb.publish("open.room", 1)
    await eventually(lambda: seen == [1])
    await subscription.unsubscribe()
    assert (sb.status, sb.stats.reconnects) == ("connected", 0)
