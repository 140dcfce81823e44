"""Push consumers on a real server: who is sent what, how far ahead, and what is said in between."""

import asyncio

import pytest
import pytest_asyncio

from broker import ConsumerOptions, Entry, StreamBroker, StreamOptions
from broker.backends.nats.push_intake import PushIntake
from broker.testing.plugin import remove_streams
from broker.testing.waiting import eventually, never

pytestmark = pytest.mark.nats


@pytest_asyncio.fixture
async def sb(nats_server, link):
    async with StreamBroker.connect(nats_server.url, link=link) as sb:
        await sb.declare(StreamOptions("S", ["s.>"], storage="memory"))
        yield sb
    await remove_streams(nats_server.url)


async def config(sb, name="w"):
    return (await sb._streams._admin.raw_consumer("S", name))["config"]


async def test_the_server_has_what_was_asked_for(sb):
    await sb.push_subscribe("s.a", print, durable="w", idle_heartbeat=2.5, max_ack_pending=7)
    has = await config(sb)
    assert (has["deliver_subject"], has["flow_control"], has["idle_heartbeat"]) == (
        "gamebroker.push.S.w",
        True,
        2_500_000_000,
    )
    assert (has["ack_policy"], has["max_ack_pending"], has.get("deliver_group")) == ("explicit", 7, None)
    await sb.push_subscribe("s.b", print, queue="g")
    has = await config(sb, "g")
    assert (has["deliver_group"], has.get("flow_control"), has.get("idle_heartbeat")) == ("g", None, None)


async def test_no_more_is_sent_ahead_than_may_be_unsettled(sb):
    hold = asyncio.Event()

    async def handle(_msg):
        await hold.wait()

    await sb.enqueue_many(Entry("s.a", n) for n in range(50))
    await sb.push_subscribe("s.a", handle, durable="w", max_ack_pending=8, concurrency=2)
    await eventually(lambda: unsettled(sb, 8))
    await never(lambda: unsettled(sb, 9), during=0.2)
    hold.set()
    await eventually(lambda: sb.stats.acked == 50)
    await eventually(lambda: unsettled(sb, 0))


async def unsettled(sb, number):
    return (await sb.consumers.info("S", "w")).ack_pending == number


async def test_a_flood_of_bytes_is_slowed_down_to_whoever_reads_it(sb, monkeypatch):
    """Without the answers to its questions how far we are the server would stop in the middle."""
    questions = []
    asked = PushIntake._control

    def control(self, reply, block):
        questions.append(bool(reply))
        asked(self, reply, block)

    monkeypatch.setattr(PushIntake, "_control", control)
    seen, body = [], b"x" * 50_000
    await sb.enqueue_many(Entry("s.a", body) for _ in range(400))
    await sb.push_subscribe("s.a", lambda msg: seen.append(msg.sequence), durable="w", max_ack_pending=10_000)
    await eventually(lambda: len(seen) == 400, within=15)
    assert seen == list(range(1, 401))
    assert any(questions), "the server asked"


async def test_a_question_is_answered_when_what_came_before_was_taken(sb):
    source = await sb._streams.open_consumer(
        ConsumerOptions(
            filters=["s.b"],
            stream="S",
            deliver_subject=sb._streams.new_inbox(),
            flow_control=True,
            idle_heartbeat=1.0,
        )
    )
    answers = []
    await sb.subscribe("how.far", answers.append)
    await sb.enqueue_many(Entry("s.b", n) for n in range(3))
    intake = source._intake
    await eventually(lambda: len(intake.buffer) == 3)
    intake._control(b"how.far", b"NATS/1.0 100 FlowControl Request\r\n\r\n")
    await source.fetch(2, timeout=1)
    await sb.flush()
    assert answers == []
    await source.fetch(1, timeout=1)
    await eventually(lambda: len(answers) == 1)
    intake._control(b"", b"NATS/1.0 100 Idle Heartbeat\r\nNats-Consumer-Stalled: how.far\r\n\r\n")
    await eventually(lambda: len(answers) == 2)
    await source.close()


async def test_the_server_is_left_with_nothing_that_waits(sb):
    hold = asyncio.Event()

    async def handle(_msg):
        await hold.wait()

    await sb.enqueue_many(Entry("s.a", n) for n in range(30))
    worker = await sb.push_subscribe("s.a", handle, durable="w", concurrency=3, ack_wait=60)
    await eventually(lambda: sb.stats.delivered >= 3)
    draining = asyncio.create_task(worker.drain())
    hold.set()
    await draining
    seen = []
    other = await sb.push_subscribe("s.a", lambda msg: seen.append(msg.json()), durable="w", ack_wait=60)
    await eventually(lambda: sb.stats.acked == 30, within=10)
    await eventually(lambda: unsettled(sb, 0))
    assert len(seen) >= 20
    await other.drain()
