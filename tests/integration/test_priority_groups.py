"""Workers in a priority group: who overflows, who comes first, who is pinned, and who takes over."""

import asyncio

import pytest
import pytest_asyncio

from broker import ConsumerOptions, Entry, InvalidOption, StreamBroker, StreamOptions, Unsupported
from broker.testing.plugin import remove_streams
from broker.testing.waiting import eventually, never

pytestmark = pytest.mark.nats


@pytest_asyncio.fixture
async def connect(nats_server, link):
    opened = []

    async def connect():
        opened.append(await StreamBroker.connect(nats_server.url, link=link))
        return opened[-1]

    yield connect
    for each in opened:
        await each.aclose()
    await remove_streams(nats_server.url)


@pytest_asyncio.fixture
async def sb(connect):
    sb = await connect()
    await sb.declare(StreamOptions("S", ["s.>"], storage="memory"))
    return sb


async def consumer(sb, policy, **more):
    groups = {"priority_policy": policy, "priority_groups": ["g"], **more}
    await sb.consumers.create(ConsumerOptions(durable="w", queue="w", stream="S", filters=["s.a"], **groups))


async def work(sb, box, ensure="bind", **claim):
    """A worker of the group on a connection of its own."""
    return await sb.consume(
        "s.a",
        lambda msg: box.append(msg.json()),
        durable="w",
        stream="S",
        ensure=ensure,
        dead_letter=False,
        priority_group="g",
        **claim,
    )


async def store(sb, *numbers):
    await sb.enqueue_many(Entry("s.a", number) for number in numbers)


async def waiting(sb, number):
    return (await sb.consumers.info("S", "w")).waiting == number


async def test_one_who_waits_for_overflow_helps_only_when_much_is_waiting(sb, connect):
    await consumer(sb, "overflow")
    seen = []
    await work(await connect(), seen, min_pending=10)
    await eventually(lambda: waiting(sb, 1))
    await store(sb, *range(9))
    await never(lambda: seen, during=0.4)
    await store(sb, *range(9, 30))
    await eventually(lambda: len(seen) >= 20, within=10)
    assert len(seen) < 30, "what is left is for those who do not wait for overflow"


async def test_the_first_in_rank_is_served_though_it_came_later(sb, connect):
    await consumer(sb, "prioritized")
    standby, first = [], []
    await work(await connect(), standby, priority=5)
    await eventually(lambda: waiting(sb, 1))
    worker = await work(await connect(), first, priority=0)
    await eventually(lambda: waiting(sb, 2))
    for number in range(20):
        await store(sb, number)
        await eventually(lambda: len(first) + len(standby) > number)  # noqa: B023 - asked at once
    assert len(first) > len(standby)
    await worker.drain()
    count = len(standby)
    await store(sb, 100)
    await eventually(lambda: len(standby) > count)


async def test_one_is_pinned_and_when_it_goes_another_is(sb, connect):
    await consumer(sb, "pinned_client", priority_timeout=1.0)
    boxes, workers = [[], []], []
    for box in boxes:
        workers.append(await work(await connect(), box))
    await store(sb, *range(50))
    await eventually(lambda: sum(map(len, boxes)) == 50, within=10)
    assert sorted(map(len, boxes)) == [0, 50], "one gets everything"
    pinned = 0 if boxes[0] else 1
    await workers[pinned].drain()
    await store(sb, *range(50, 60))
    await eventually(lambda: len(boxes[1 - pinned]) == 10, within=15)


async def test_who_leaves_gives_the_pin_up(sb, connect):
    await consumer(sb, "pinned_client", priority_timeout=60.0)
    boxes, workers = [[], []], []
    for box in boxes:
        workers.append(await work(await connect(), box, ensure="verify"))
    await store(sb, *range(10))
    await eventually(lambda: sum(map(len, boxes)) == 10, within=10)
    pinned = 0 if boxes[0] else 1
    await workers[pinned].drain()
    await store(sb, *range(10, 20))
    await eventually(lambda: len(boxes[1 - pinned]) == 10, within=15)


async def test_whoever_is_pinned_stays_so_while_nothing_comes(sb, connect):
    """An open request does not renew a pin, however long it waits: only a new one does."""
    await consumer(sb, "pinned_client", priority_timeout=4.0)
    boxes = [[], []]
    for box in boxes:
        await work(await connect(), box)
    await store(sb, *range(10))
    await eventually(lambda: sum(map(len, boxes)) == 10, within=10)
    pinned = 0 if boxes[0] else 1
    await asyncio.sleep(6)
    await store(sb, *range(10, 20))
    await eventually(lambda: sum(map(len, boxes)) == 20, within=10)
    assert len(boxes[pinned]) == 20


async def test_who_lost_the_pin_is_told_and_stands_by(sb, connect):
    await consumer(sb, "pinned_client", priority_timeout=5.0)
    boxes, told = [[], []], [[], []]

    async def listen(events, kinds):
        async for event in events:
            kinds.append(event.kind)

    listening = []
    for box, kinds in zip(boxes, told, strict=True):
        worker = await work(await connect(), box)
        listening.append(asyncio.create_task(listen(worker.events(), kinds)))
    await store(sb, *range(10))
    await eventually(lambda: sum(map(len, boxes)) == 10, within=10)
    pinned = 0 if boxes[0] else 1
    await sb.consumers.unpin("S", "w", "g")
    for number in range(10, 40):
        await store(sb, number)
        await asyncio.sleep(0.02)
    await eventually(lambda: sum(map(len, boxes)) >= 40, within=15)
    await eventually(lambda: "pin_lost" in told[pinned], within=15)
    assert sorted(boxes[0] + boxes[1]) == list(range(40))
    for task in listening:
        task.cancel()
    await asyncio.wait(listening)


async def test_pulling_in_a_group(sb):
    await consumer(sb, "pinned_client", priority_timeout=1.0)
    await store(sb, 1, 2, 3)
    async with sb.pull("s.a", durable="w", stream="S", ensure="bind", priority_group="g") as puller:
        got = []
        while len(got) < 3:
            got += await puller.fetch(3 - len(got), timeout=5)
        assert [msg.json() for msg in got] == [1, 2, 3]


@pytest.mark.parametrize(
    "options",
    [
        {"min_pending": 5},
        {"priority": 1},
        {"priority_group": ""},
        {"priority_group": "a b"},
        {"priority_group": "g", "priority": 10},
        {"priority_group": "g", "min_pending": -1},
    ],
    ids=str,
)
async def test_a_claim_that_makes_no_sense_is_refused(sb, options):
    with pytest.raises(InvalidOption) as caught:
        await sb.consume("s.a", print, durable="w", **options)
    assert caught.value.option in options
    with pytest.raises(InvalidOption):
        sb.pull("s.a", durable="w", **options)


@pytest.mark.parametrize("ensure", ["verify", "update"])
async def test_who_claims_a_place_leaves_the_groups_as_they_are(sb, ensure):
    await consumer(sb, "prioritized")
    differs = {} if ensure == "verify" else {"ack_wait": 20.0}
    consumption = await sb.consume("s.a", print, durable="w", stream="S", ensure=ensure, priority_group="g", **differs)
    await consumption.drain()
    config = (await sb.consumers.info("S", "w")).config
    assert (config.priority_policy, config.priority_groups) == ("prioritized", ("g",))
    assert config.ack_wait == differs.get("ack_wait", 30.0)


async def test_the_memory_twin_says_that_it_has_none():
    async with StreamBroker.connect("memory://") as sb:
        await sb.declare(StreamOptions("S", ["s.>"]))
        with pytest.raises(Unsupported):
            await sb.consume("s.a", print, durable="w", priority_group="g")
