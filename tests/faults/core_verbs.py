"""Every public verb of the core tier and of ending, ready to be called again and again on one stage."""

import asyncio
from contextlib import aclosing

import pytest

from broker import NoResponders, StreamBroker
from broker.testing.waiting import eventually
from tests.faults.stage import ACK_WAIT, BOUND, GIVEN_BACK, verb


@verb
async def connect(stage):
    await (await stage.connect()).aclose()


@verb
async def connect_async_with(stage):
    async with StreamBroker.connect(stage.url, link=stage.link) as sb:
        await sb.publish("a", b"x")


@verb
async def publish_congested(stage):
    for _ in range(20):
        stage.sb.publish_nowait("nobody.listens", b"x" * 100_000)
    await stage.sb.publish("nobody.listens", b"x")


@verb
async def subscribe(stage):
    await (await stage.sb.subscribe("a.b")).unsubscribe()


@verb
async def subscribe_with_a_handler(stage):
    async def handle(_msg):
        await asyncio.sleep(30)

    async with await stage.sb.subscribe(stage.subject("core"), handle):
        await stage.sb.publish(stage.subject("core"), b"x")
        await stage.sb.flush()


@verb
async def subscription_drain(stage):
    async def handle(_msg):
        await asyncio.sleep(0.005)

    subscription = await stage.sb.subscribe(stage.subject("core"), handle)
    try:
        await stage.sb.publish(stage.subject("core"), b"x")
        await stage.sb.flush()
    finally:
        await subscription.drain()


@verb
async def subscription_iteration(stage):
    async with await stage.sb.subscribe(stage.subject("core")) as subscription:
        await stage.sb.publish(stage.subject("core"), b"x")
        assert (await anext(subscription)).data == b"x"


@verb
async def request(stage):
    await stage.sb.request(f"echo.{stage.stream}", b"x")


@verb
async def request_to_nobody(stage):
    with pytest.raises(NoResponders):
        await stage.sb.request(f"nobody.{stage.stream}", b"x")


@verb
async def request_many(stage):
    async with aclosing(stage.sb.request_many(f"echo.{stage.stream}", b"x", max_replies=1)) as replies:
        assert [each.data async for each in replies] == [b"x"]


@verb
async def respond(stage):
    async def answer(msg):
        await msg.respond(b"y")

    subject = f"answer.{stage.stream}"
    async with await stage.sb.respond(subject, answer):
        assert (await stage.sb.request(subject, b"x")).data == b"y"


@verb
async def flush(stage):
    await stage.sb.publish("nobody.listens", b"x")
    await stage.sb.flush()


@verb
async def status_changes(stage):
    async with aclosing(stage.sb.status_changes()) as changes:
        await anext(changes)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await anext(changes)


@verb
async def state(stage):
    subject = f"state.{stage.stream}"
    async with stage.sb.watch_state(subject) as reader, stage.sb.state(subject) as publisher:
        publisher.tick({"p1": {"x": 1}})
        async with asyncio.timeout(BOUND):
            assert (await anext(reader)).state == {"p1": {"x": 1}}


@verb
async def drain_at_work(stage):
    await stage.kept.pop("busy").drain(timeout=0.02)


@verb
async def aclose_at_work(stage):
    await stage.kept.pop("busy").aclose()


async def busy(stage):
    """A broker with a handler of every kind that does not come to an end by itself; the message is always the same."""
    stage.kept["busy"] = sb = await stage.connect()
    started, subject = set(), f"busy.{stage.stream}"

    def endless(kind):
        async def handle(_msg):
            started.add(kind)
            await asyncio.sleep(60)

        return handle

    await sb.subscribe(subject, endless("subscription"))
    await sb.respond(subject, endless("responder"))
    await sb.consume(
        stage.subject("busy"), endless("stored"), durable="busy", ack_wait=ACK_WAIT, max_deliver=GIVEN_BACK
    )
    await sb.enqueue(stage.subject("busy"), b"x", idempotency_key="the only one")
    await sb.publish(subject, b"x")
    await eventually(lambda: len(started) == 3)


@verb
async def consumption_drain(stage):
    """The handler that runs is let finish, whether or not somebody waits for it."""
    await stage.kept.pop("draining").drain()


async def draining(stage):
    started = asyncio.Event()

    async def handle(msg):
        started.set()
        await asyncio.sleep(0.01)
        stage.seen.append(msg.sequence)

    assert stage.seen == stage.kept.setdefault("stored", [])
    subject = stage.subject("draining")
    stage.kept["draining"] = await stage.sb.consume(subject, handle, durable="draining", ack_wait=ACK_WAIT)
    stage.kept["stored"].append((await stage.sb.enqueue(subject, b"x")).sequence)
    await asyncio.wait_for(started.wait(), BOUND)


PREPARED = {"drain_at_work": busy, "aclose_at_work": busy, "consumption_drain": draining}
"""What is done before each run, undisturbed."""


async def prepared(stage, name):
    if prepare := PREPARED.get(name):
        await prepare(stage)
