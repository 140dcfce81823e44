"""Every public verb, cancelled at each of its awaits: the cancellation comes out, and nothing stays behind.

After each cancellation the same broker still works, and what it keeps account of (calls in flight, subscriptions,
watchers, sources, waiting senders) is as it was before.
"""

import asyncio
import gc
import json
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from urllib.request import urlopen
from uuid import uuid4

import pytest
import pytest_asyncio
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider

from broker import Entry, NoResponders, NoStream, StreamBroker, StreamOptions
from broker.backends import open_backend
from broker.contracts.options import ConnectOptions
from broker.server import NatsServer
from broker.telemetry import trace_backend
from broker.testing.cancelling import cancelled_everywhere
from broker.testing.waiting import eventually
from tests.accounts import accounts, grown

pytestmark = [pytest.mark.fault]

BOUND = 5.0
"""Seconds a clean-up after a cancellation may take on a busy machine; most come out at once."""
AGAIN = 2.0
"""Seconds in which a message somebody was cancelled with is handed out again: far less than the ack wait."""
ACK_WAIT = 60.0
LIMIT = 1 << 20
VERBS = {}


def verb(work):
    """An entry of the table: called for each run, with the stage."""
    VERBS[work.__name__] = work
    return work


@dataclass
class Stage:
    url: str
    link: str | None
    sb: StreamBroker
    stream: str
    monitoring: str | None
    seen: list = field(default_factory=list)
    kept: dict = field(default_factory=dict)

    async def connect(self):
        return await StreamBroker.connect(self.url, link=self.link, outbound_limit=LIMIT)

    def subject(self, token="a"):
        return f"{self.stream}.{token}"

    async def works(self):
        """One round trip of each tier on the same connection."""
        assert (await self.sb.request(f"echo.{self.stream}", b"x")).data == b"x"
        await self.sb.enqueue(self.subject("works"), b"x")

    async def unchanged(self, before, tasks):
        """As it was, at once or in a moment: what a clean-up sends still has to be answered."""

        def left():
            return grown(self.sb, before), [repr(task) for task in asyncio.all_tasks() - tasks]

        try:
            await eventually(lambda: not any(left()), within=BOUND)
        except AssertionError:
            pytest.fail(f"left behind: {left()}", pytrace=False)

    async def subscriptions(self):
        """What the server knows of everybody's interest."""
        if self.monitoring is None:
            return None
        return await asyncio.to_thread(self._ask, "/connz?subs=1")

    def _ask(self, path):
        with urlopen(self.monitoring + path, timeout=5) as answer:
            told = json.load(answer)
        return sorted(len(each.get("subscriptions_list") or ()) for each in told["connections"])


@pytest.fixture(scope="module")
def shared_server():
    server = NatsServer(sync_interval=None, monitoring=True)
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(server.start())
        try:
            yield server
        finally:
            runner.run(server.stop())


@pytest.fixture(
    params=["memory", "traced", *(pytest.param(each, marks=pytest.mark.nats) for each in ("nats-py", "wire"))]
)
def place(request):
    if request.param in {"memory", "traced"}:
        return f"memory://{uuid4().hex}", None, None
    server = request.getfixturevalue("shared_server")
    return server.url, request.param, server.monitoring_url


@pytest_asyncio.fixture
async def stage(place, request):
    url, link, monitoring = place
    stream = f"s{uuid4().hex[:10]}"
    backend = await open_backend(ConnectOptions(url=url, link=link, outbound_limit=LIMIT))
    if "traced" in request.node.name:
        tracing = TracerProvider(shutdown_on_exit=False)
        backend = trace_backend(backend, tracer_provider=tracing, meter_provider=MeterProvider(shutdown_on_exit=False))
    async with StreamBroker(backend) as sb:
        await sb.declare(StreamOptions(stream, [f"{stream}.>"]))
        await sb.respond(f"echo.{stream}", lambda msg: msg.data)
        yield Stage(url, link, sb, stream, monitoring)
        for name in [each async for each in sb.streams.names()]:
            if name.startswith(stream):
                await sb.streams.delete(name)


def descriptors():
    return sum(1 for _ in Path("/dev/fd").iterdir())


@pytest_asyncio.fixture
async def no_noise():
    """Nothing may reach the loop's handler of last resort, such as an error that nobody retrieved."""
    told = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context))
    yield
    gc.collect()
    assert not told


# -- the core tier


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
    await sb.consume(stage.subject("busy"), endless("stored"), durable="busy", ack_wait=ACK_WAIT, max_deliver=1000)
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


# -- storing and managing


@verb
async def declare(stage):
    await stage.sb.declare(StreamOptions(stage.stream, [f"{stage.stream}.>"]))


@verb
async def enqueue(stage):
    await stage.sb.enqueue(stage.subject(), b"x")


@verb
async def enqueue_to_no_stream(stage):
    with pytest.raises(NoStream):
        await stage.sb.enqueue("no.stream", b"x")


@verb
async def enqueue_many(stage):
    receipts = await stage.sb.enqueue_many((Entry(stage.subject("many"), n) for n in range(12)), window=4)
    assert len(receipts) == 12


@verb
async def streams(stage):
    # Another one each time: the server may still be at work on what was cancelled.
    admin, name = stage.sb.streams, f"{stage.stream}x{uuid4().hex[:6]}"
    options = StreamOptions(name, [f"{name}.>"])
    await admin.create(options)
    await admin.update(options)
    await admin.ensure(options, "update")
    assert (await admin.info(name)).name == name
    assert name in [each async for each in admin.names()]
    assert name in [each.name async for each in admin.list()]
    receipt = await stage.sb.enqueue(f"{name}.a", b"x")
    assert await admin.get_message(name, receipt.sequence) is not None
    assert await admin.get_last(name, f"{name}.a") is not None
    assert await admin.delete_message(name, receipt.sequence)
    await admin.purge(name)
    await admin.delete(name)


@verb
async def consumers(stage):
    admin = stage.sb.consumers
    async with stage.sb.pull(stage.subject("admin"), durable="admin"):
        assert (await admin.info(stage.stream, "admin")).name == "admin"
        assert "admin" in [each async for each in admin.names(stage.stream)]
        assert "admin" in [each.name async for each in admin.list(stage.stream)]
    await admin.delete(stage.stream, "admin")


# -- consuming


@verb
async def consume_async(stage):
    async def handle(msg):
        await asyncio.sleep(0.002)
        stage.seen.append(msg.data)

    await consumed(stage, handle, durable="async")


@verb
async def consume_plain(stage):
    await consumed(stage, lambda msg: stage.seen.append(msg.data), durable="plain")


@verb
async def consume_unnamed(stage):
    await consumed(stage, lambda msg: stage.seen.append(msg.data))


@verb
async def work_in_order(stage):
    """A lane is taken, a message fails once and has its turn again, the lane is left."""
    stream = f"{stage.stream}-lanes"
    await stage.sb.declare(StreamOptions(stream, [f"{stream}.a"], lanes=1))
    before = len(stage.seen)

    async def handle(msg):
        if msg.attempt == 1:
            raise RuntimeError("once")
        stage.seen.append(msg.data)

    consumption = await stage.sb.consume(f"{stream}.a", handle, queue="ordered", ordered=True, backoff=())
    try:
        await stage.sb.enqueue(f"{stream}.a", b"x", ordering_key="ann")
        await eventually(lambda: len(stage.seen) > before)
    finally:
        await consumption.drain()


async def consumed(stage, handle, **options):
    consumption = await stage.sb.consume(stage.subject("work"), handle, ack_wait=ACK_WAIT, **options)
    try:
        before = len(stage.seen)
        await stage.sb.enqueue(stage.subject("work"), b"x")
        await eventually(lambda: len(stage.seen) > before)
        await consumption.pause()
        await consumption.resume()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await consumption.wait()
    finally:
        await consumption.drain()


@verb
async def pull_fetch(stage):
    await three(stage)
    async with pulled(stage) as puller:
        for message in await puller.fetch(3, timeout=AGAIN):
            await message.nak()


@verb
async def pull_next(stage):
    await three(stage)
    async with pulled(stage) as puller:
        message = await puller.next(timeout=AGAIN)
        await message.in_progress()
        await message.nak()


@verb
async def pull_iteration(stage):
    await three(stage)
    async with pulled(stage) as puller:
        async for message in puller:
            await message.nak()
            break


@verb
async def pull_nothing(stage):
    async with stage.sb.pull(stage.subject("nothing"), durable="nothing") as puller:
        assert await puller.fetch(3, timeout=0.02) == []


def pulled(stage):
    return stage.sb.pull(stage.subject("three"), durable="three", ack_wait=ACK_WAIT)


async def three(stage):
    """Three messages in the stream; before the first run only."""
    await stage.sb.enqueue_many(
        [Entry(stage.subject("three"), n, idempotency_key=f"three-{n}") for n in range(3)], timeout=BOUND
    )


@verb
async def read(stage):
    await three(stage)
    async with stage.sb.read(stage.subject("three"), until="end") as stored:
        assert [each.json() async for each in stored] == [0, 1, 2]


@verb
async def read_the_last(stage):
    await three(stage)
    async with stage.sb.read(stage.subject("three"), start="last") as stored:
        assert (await anext(stored)).json() == 2


# -- settling


@verb
async def ack(stage):
    await (await message(stage)).ack()


@verb
async def ack_confirmed(stage):
    await (await message(stage)).ack(confirm=True)


@verb
async def term(stage):
    await (await message(stage)).term("enough")


@verb
async def in_progress(stage):
    await (await message(stage)).in_progress()


async def message(stage):
    """One on loan that is not settled yet, from a puller that goes with the broker."""
    if "puller" not in stage.kept:
        puller = await stage.sb.pull(stage.subject("settle"), durable="settle", ack_wait=ACK_WAIT).__aenter__()
        stage.kept["puller"] = puller
    held = stage.kept.get("message")
    if held is None or held.settled:
        await stage.sb.enqueue(stage.subject("settle"), b"x")
        stage.kept["message"] = held = await stage.kept["puller"].next()
    return held


# -- dead letters


@verb
async def dead_letters(stage):
    letters = stage.sb.dead_letters
    one = await dead(stage)
    assert await letters.get(one.sequence) == one
    assert await letters.replay(one) == 1
    again = await dead(stage)
    assert await letters.discard(again)


async def dead(stage):
    """A dead letter of this stage."""

    async def refuse(msg):
        await msg.term("enough")

    if found := await letters_of(stage):
        return found[0]
    consumption = await stage.sb.consume(stage.subject("dead"), refuse, durable="dead", ack_wait=ACK_WAIT)
    try:
        before = stage.sb.stats.dead_lettered
        await stage.sb.enqueue(stage.subject("dead"), b"x")
        await eventually(lambda: stage.sb.stats.dead_lettered > before)
    finally:
        await consumption.drain()
    return (await letters_of(stage))[0]


async def letters_of(stage):
    return [letter async for letter in stage.sb.dead_letters.list(subject=stage.subject("dead"))]


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", VERBS)
@pytest.mark.usefixtures("no_noise")
async def test_cancelled_at_every_await(stage, name):
    work = VERBS[name]
    await prepared(stage, name)
    await work(stage)  # what a first use keeps for good is no leak of the others
    await stage.works()
    await asyncio.sleep(0.01)
    tasks, before, known = asyncio.all_tasks(), accounts(stage.sb), await stage.subscriptions()
    opened = descriptors()
    await prepared(stage, name)
    async with aclosing(cancelled_everywhere(lambda: work(stage), within=BOUND)) as runs:
        async for _run in runs:
            await stage.unchanged(before, tasks)
            await stage.works()
            await prepared(stage, name)
    if left := stage.kept.pop("busy", None):
        await left.aclose()
    if left := stage.kept.pop("draining", None):
        await left.drain()
        assert stage.seen == stage.kept["stored"]
    await eventually(lambda: descriptors() <= opened)

    async def the_server_knows_of_nothing_more():
        return await stage.subscriptions() == known

    await eventually(the_server_knows_of_nothing_more, within=BOUND)
    await nothing_is_kept_from_the_others(stage, name)


async def nothing_is_kept_from_the_others(stage, name):
    """What a cancelled puller had in hand is there for the next one, long before its ack wait is over."""
    if name.startswith("pull_") and name != "pull_nothing":
        async with pulled(stage) as puller:
            got = await puller.fetch(3, timeout=AGAIN * 5)
            assert sorted(each.json() for each in got) == [0, 1, 2]
    elif name.startswith("consume_") and name != "consume_unnamed":
        # A handler that was cancelled has given its message back, so somebody else can finish all of them now.
        handled = await stage.sb.consume(
            stage.subject("work"), lambda _: None, durable=name.removeprefix("consume_"), ack_wait=ACK_WAIT
        )

        async def idle():
            info = await stage.sb.consumers.info(stage.stream, handled.consumer)
            return info.pending == 0 and info.ack_pending == 0

        await eventually(idle, within=AGAIN * 5)
        await handled.drain()


async def test_giving_up_on_a_message_can_be_cancelled_and_done_again(stage):
    """It is in the dead letters once, and settled once, however often that was begun."""
    told = asyncio.get_running_loop().create_future()

    async def handle(msg):
        runs = [run async for run in cancelled_everywhere(lambda: msg.term("enough"), within=BOUND)]
        told.set_result(len(runs))

    subject = stage.subject("buried")
    consumption = await stage.sb.consume(subject, handle, durable="buried", ack_wait=ACK_WAIT)
    await stage.sb.enqueue(subject, b"x", idempotency_key="battle-42")
    async with asyncio.timeout(BOUND * 3):
        assert await told > 2
    await consumption.drain()
    [letter] = [each async for each in stage.sb.dead_letters.list(subject=subject)]
    assert letter.reason == "enough"
    info = await stage.sb.consumers.info(stage.stream, "buried")
    assert (info.pending, info.ack_pending) == (0, 0)
