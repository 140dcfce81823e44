"""Cancelled while the server is frozen or gone, or while a broker closes: it comes out at once and leaves nothing."""

import asyncio
from contextlib import aclosing
from time import monotonic

import pytest

from broker import Entry, Status, StreamOptions
from broker.testing.waiting import eventually
from tests.accounts import accounts, grown

pytestmark = [pytest.mark.nats, pytest.mark.fault]

S = StreamOptions("S", ["s.>"])
PATIENCE = 60.0
"""Seconds the verbs themselves would wait."""
AT_ONCE = 1.5
"""On a busy machine; the shortest time-out of any verb is longer."""
WAITING = ("outbound._writable", "outbound._passed", "link._pings", "watchers._callbacks")
"""Accounts that are not to wait for the server's return: a caller may come again every tick."""
CLOSING = 15.0
"""Seconds in which a broker has closed whatever the server does."""


class Table:
    """What hangs, by name; each is given a broker and what it had in hand before the fault."""

    def __init__(self):
        self.verbs = {}

    def __call__(self, verb):
        self.verbs[verb.__name__] = verb
        return verb


hangs = Table()


@hangs
async def publish(sb, _held):
    while True:
        await sb.publish("nobody.listens", b"x" * 50_000)


@hangs
async def request(sb, _held):
    await sb.request("nobody.listens", b"x", timeout=PATIENCE)


@hangs
async def request_many(sb, _held):
    async with aclosing(sb.request_many("nobody.listens", b"x", timeout=PATIENCE)) as replies:
        await anext(replies)


@hangs
async def subscribe(sb, _held):
    await sb.subscribe("a.b")


@hangs
async def respond(sb, _held):
    await sb.respond("a.b", lambda _: None)


@hangs
async def flush(sb, _held):
    await sb.flush(timeout=PATIENCE)


@hangs
async def declare(sb, _held):
    await sb.declare(S)


@hangs
async def enqueue(sb, _held):
    await sb.enqueue("s.a", b"x", timeout=PATIENCE)


@hangs
async def enqueue_many(sb, _held):
    await sb.enqueue_many((Entry("s.a", n) for n in range(10)), timeout=PATIENCE)


@hangs
async def consume(sb, _held):
    await sb.consume("s.a", print, durable="w")


@hangs
async def push_subscribe(sb, _held):
    await sb.push_subscribe("s.a", print, durable="pushed")


@hangs
async def push_subscribe_in_order(sb, _held):
    await sb.push_subscribe("s.a", print, ordered=True)


@hangs
async def events(_sb, held):
    listening = held["consumption"].events()
    while True:
        await anext(listening)


@hangs
async def pull(sb, _held):
    async with sb.pull("s.a", durable="p"):
        pass


@hangs
async def fetch(_sb, held):
    await held["puller"].fetch(1, timeout=PATIENCE)


@hangs
async def confirmed_ack(_sb, held):
    await held["message"].ack(confirm=True)


@hangs
async def read(sb, _held):
    async with sb.read("s.a") as stored:
        await anext(stored)


@hangs
async def follow(_sb, held):
    await anext(held["reader"])


@hangs
async def wait(_sb, held):
    await held["consumption"].wait()


@hangs
async def info(sb, _held):
    await sb.streams.info("S")


@hangs
async def names(sb, _held):
    await anext(sb.streams.names())


@hangs
async def dead_letters(sb, _held):
    await anext(sb.dead_letters.list())


@hangs
async def watch_state(sb, _held):
    async with sb.watch_state("battle.1.state"):
        pass


async def in_hand(sb):
    """Things opened before the fault, and what the accounts said before them."""
    await sb.declare(S)
    before = accounts(sb)
    puller = await sb.pull("s.held", durable="held").__aenter__()
    await sb.enqueue("s.held", b"x")
    return before, {
        "puller": puller,
        "message": await puller.next(),
        "reader": await sb.read("s.nothing").__aenter__(),
        "consumption": await sb.consume("s.consumed", lambda _: None, durable="c"),
    }


async def all_of_them_come_out(sb, held, *, but=()):
    await asyncio.sleep(0.05)
    tasks, waiting = asyncio.all_tasks(), {each: accounts(sb)[each] for each in WAITING}
    for name, verb in hangs.verbs.items() - {(each, hangs.verbs[each]) for each in but}:
        task = asyncio.create_task(verb(sb, held), name=name)
        await asyncio.sleep(0.02)
        assert not task.done(), f"{name} does not hang: {task}"
        cancelled = monotonic()
        task.cancel()
        await asyncio.wait({task}, timeout=PATIENCE)
        assert task.cancelled(), f"{name}: {task}"
        assert monotonic() - cancelled < AT_ONCE, name
        await eventually(lambda: not asyncio.all_tasks() - tasks - {asyncio.current_task()}, within=AT_ONCE)
        assert waiting == {each: accounts(sb)[each] for each in WAITING}, name


async def it_works_again(sb, held, before):
    await eventually(lambda: sb.status is Status.CONNECTED, within=15)
    async with await sb.subscribe("after") as subscription:
        await sb.publish("after", b"x")
        assert (await asyncio.wait_for(anext(subscription), 5)).data == b"x"
    await sb.enqueue("s.after", b"x")
    await held["puller"].__aexit__(None, None, None)
    await held["reader"].__aexit__(None, None, None)
    await held["consumption"].drain()

    try:
        await eventually(lambda: not grown(sb, before))
    except AssertionError:
        pytest.fail(f"left behind: {grown(sb, before)}", pytrace=False)


@pytest.mark.timeout(60)
async def test_from_a_frozen_server(server, connect):
    async with connect(outbound_limit=256 << 10) as sb:
        before, held = await in_hand(sb)
        await server.freeze()
        await all_of_them_come_out(sb, held)
        await server.thaw()
        await it_works_again(sb, held, before)


@pytest.mark.timeout(60)
async def test_without_a_connection(server, connect):
    async with connect(outbound_limit=256 << 10) as sb:
        before, held = await in_hand(sb)
        await server.kill()
        await eventually(lambda: sb.status is Status.RECONNECTING, within=10)
        await all_of_them_come_out(sb, held, but={"confirmed_ack"})  # unknown at once: nobody to tell
        await server.restart()
        await it_works_again(sb, held, before)


async def test_connecting_to_a_frozen_server(server, connect):
    await server.freeze()
    tasks = asyncio.all_tasks()
    for pause in (0, 0.01, 0.1):
        connecting = asyncio.create_task(connect(connect_timeout=PATIENCE).__aenter__())
        await asyncio.sleep(pause)
        cancelled = monotonic()
        connecting.cancel()
        await asyncio.wait({connecting}, timeout=PATIENCE)
        assert connecting.cancelled()
        assert monotonic() - cancelled < AT_ONCE
        await eventually(lambda: asyncio.all_tasks() <= tasks, within=AT_ONCE)
    await server.thaw()


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("ending", "turns", "frozen"),
    [*((ending, turns, False) for ending in ("drain", "aclose") for turns in range(4)), ("aclose", 1, True)],
)
async def test_cancelled_twice_while_ending(server, connect, ending, frozen, turns):
    """It comes out (a drain after closing, in bounded time), and the broker comes to its end all the same."""
    async with connect() as other:
        await other.declare(S)
    tasks = asyncio.all_tasks()
    sb, running = await connect(), set()
    await busy(sb, running)
    if frozen:
        await server.freeze()
    task = asyncio.create_task(getattr(sb, ending)())
    for _ in range(2):
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
    cancelled = monotonic()
    await asyncio.wait({task}, timeout=PATIENCE)
    assert task.cancelled()
    assert monotonic() - cancelled < (AT_ONCE if ending == "aclose" else CLOSING)
    if not turns:  # cancelled before its first step it has not begun
        await sb.aclose()
    await eventually(lambda: sb.status is Status.CLOSED, within=CLOSING)
    await eventually(lambda: not running, within=CLOSING)
    await eventually(lambda: asyncio.all_tasks() <= tasks, within=CLOSING)
    if frozen:
        await server.thaw()
    else:
        await somebody_else_gets_it(connect)


async def busy(sb, running):
    started = set()

    def endless(kind):
        async def handle(_msg):
            started.add(kind)
            running.add(kind)
            try:
                await asyncio.sleep(PATIENCE)
            finally:
                running.discard(kind)

        return handle

    await sb.subscribe("busy", endless("subscription"))
    await sb.respond("busy", endless("responder"))
    await sb.consume("s.busy", endless("stored"), durable="busy", ack_wait=PATIENCE, max_deliver=100)
    await sb.enqueue("s.busy", b"x", idempotency_key="the only one")
    await sb.publish("busy", b"x")
    await eventually(lambda: started >= {"subscription", "responder", "stored"}, within=10)


async def somebody_else_gets_it(connect):
    """What the cancelled handler had in hand was given back."""
    async with (
        connect() as other,
        other.pull("s.busy", durable="busy", ack_wait=PATIENCE, max_ack_pending=256) as puller,
    ):
        message = await puller.next(timeout=10)
        assert message is not None
        await message.nak()
