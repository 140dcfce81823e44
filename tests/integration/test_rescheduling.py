"""What only a real server does for far attempts: permissions, and what a lost ack comes to."""

import asyncio

import pytest

from broker import StreamBroker, StreamOptions
from broker.rescheduling.source import ReturningSource
from broker.testing.waiting import eventually, never
from tests.integration.test_nats_lanes import guarded

pytestmark = pytest.mark.nats

LATER = "GAMEBROKER_LATER"
FAR = {"durable": "mailer", "reschedule_after": 0.2}


@pytest.fixture
async def sb(nats_server, link):
    async with StreamBroker.connect(nats_server.url, link=link) as connected:
        await connected.declare(StreamOptions("MAIL", ["mail.>"]))
        yield connected
        async for name in connected.streams.names():
            await connected.streams.delete(name)


async def emptied(sb):
    return (await sb.streams.info(LATER)).messages == 0


def lose_first_ack(monkeypatch):
    """As if the worker had died between storing the next attempt and acking this one."""
    ack, lost = ReturningSource.ack, []

    async def maybe(self, deliveries):
        if lost:
            await ack(self, deliveries)
        lost.append(deliveries)

    monkeypatch.setattr(ReturningSource, "ack", maybe)


async def test_a_repeat_after_a_lost_ack_that_fails_as_well_is_one_with_what_waits(sb, monkeypatch):
    lose_first_ack(monkeypatch)
    attempts = []

    def handle(msg):
        attempts.append(msg.attempt)
        if msg.attempt < 3:
            raise ConnectionError

    await sb.consume("mail.>", handle, ack_wait=0.5, backoff=(3.0,), **FAR)
    await sb.enqueue("mail.ann", 1)
    await eventually(lambda: attempts == [1, 2])
    assert (await sb.streams.info(LATER)).messages == 1
    await eventually(lambda: len(attempts) == 3, within=10)
    assert attempts == [1, 2, 3]
    await eventually(lambda: emptied(sb))
    await never(lambda: len(attempts) > 3, during=1.0)


async def test_a_repeat_after_a_lost_ack_that_succeeds_is_repeated_once(sb, monkeypatch):
    lose_first_ack(monkeypatch)
    attempts = []

    def handle(msg):
        attempts.append((msg.attempt, msg.sequence))
        if msg.attempt == 1:
            raise ConnectionError

    await sb.consume("mail.>", handle, ack_wait=0.5, backoff=(2.5,), **FAR)
    await sb.enqueue("mail.ann", 1)
    await eventually(lambda: len(attempts) == 3, within=10)
    assert attempts == [(1, 1), (2, 1), (2, 1)]
    await eventually(lambda: emptied(sb))


BOUND = """[
    "$JS.API.CONSUMER.INFO.MAIL.mailer", "$JS.API.CONSUMER.MSG.NEXT.MAIL.mailer", "$JS.ACK.MAIL.>"
    "gamebroker.later.waiting.MAIL.mailer.>", "$JS.API.CONSUMER.INFO.GAMEBROKER_LATER.MAIL--mailer"
    "$JS.API.CONSUMER.MSG.NEXT.GAMEBROKER_LATER.MAIL--mailer", "$JS.ACK.GAMEBROKER_LATER.>"
]"""
"""What docs/concepts/consuming.md says a bound worker needs."""


async def test_a_bound_worker_needs_no_more_than_the_docs_say(tmp_path, link):
    async with guarded(tmp_path, BOUND, link) as (boss, mailer):
        await boss.declare(StreamOptions("MAIL", ["mail.>"]))
        await (await boss.consume("mail.>", print, **FAR)).drain()
        attempts = []

        def handle(msg):
            attempts.append(msg.attempt)
            if msg.attempt < 3:
                raise ConnectionError

        options = {"stream": "MAIL", "ensure": "bind", "dead_letter": False, "backoff": (0.4,)}
        await mailer.consume("mail.>", handle, **options, **FAR)
        await boss.enqueue("mail.ann", 1)
        await eventually(lambda: attempts == [1, 2, 3], within=10)
        assert mailer.stats.rescheduled == 2
        await eventually(lambda: emptied(boss))


async def test_a_worker_that_may_not_store_keeps_the_place_and_asks_once_in_a_while(tmp_path, link):
    publish = BOUND.replace('"gamebroker.later.waiting.MAIL.mailer.>", ', "")
    async with guarded(tmp_path, publish, link) as (boss, mailer):
        await boss.declare(StreamOptions("MAIL", ["mail.>"]))
        await (await boss.consume("mail.>", print, **FAR)).drain()
        attempts, loop = [], asyncio.get_running_loop()

        def handle(msg):
            attempts.append(msg.attempt)
            if msg.attempt < 2:
                raise ConnectionError

        options = {"stream": "MAIL", "ensure": "bind", "dead_letter": False, "backoff": (0.3,)}
        await mailer.consume("mail.>", handle, **options, **FAR)
        began = loop.time()
        for number in range(20):
            await boss.enqueue("mail.ann", number)
        await eventually(lambda: len(attempts) == 40, within=15)
        assert loop.time() - began < 15  # had each of them waited for the store, it would be 40
        assert (mailer.stats.rescheduled, mailer.stats.naked) == (0, 20)
