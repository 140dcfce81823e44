"""Every public verb of the stream tier, ready to be called again and again on one stage."""

import asyncio
from contextlib import aclosing
from uuid import uuid4

import pytest

from broker import Entry, Expect, NoStream, SequenceConflict, StreamOptions
from broker.testing.waiting import eventually
from tests.faults.stage import ACK_WAIT, AGAIN, BOUND, GIVEN_BACK, verb

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
async def enqueue_atomic(stage):
    receipts = await stage.sb.enqueue_atomic([Entry(stage.subject("batch"), n) for n in range(3)])
    assert len(receipts) == 3


@verb
async def enqueue_expecting_an_id(stage):
    with pytest.raises(SequenceConflict):
        await stage.sb.enqueue(stage.subject(), b"x", expect=Expect(last_msg_id="other"))


@verb
async def schedule(stage):
    name = f"{stage.stream}later"
    await stage.sb.declare(StreamOptions(name, [f"{name}.>"], schedules=True, discard="old"))
    await stage.sb.schedule(f"{name}.a", b"x", delay=600, key="k")
    assert await stage.sb.cancel("k", stream=name)


@verb
async def increment(stage):
    name = f"{stage.stream}sums"
    await stage.sb.declare(StreamOptions(name, [f"{name}.>"], counters=True, discard="old"))
    value = await stage.sb.increment(f"{name}.a")
    assert await stage.sb.counter(f"{name}.a") >= value


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
    async with aclosing(admin.get_many(name)) as run:
        assert [each.sequence async for each in run] == [receipt.sequence]
    async with aclosing(admin.get_last_many(name, [f"{name}.>"])) as last:
        assert [each.sequence async for each in last] == [receipt.sequence]
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
        stage.see(msg.data)

    await consumed(stage, handle, durable="async")


@verb
async def consume_plain(stage):
    await consumed(stage, lambda msg: stage.see(msg.data), durable="plain")


@verb
async def consume_unnamed(stage):
    await consumed(stage, lambda msg: stage.see(msg.data))


@verb
async def consume_rescheduled(stage):
    """A message fails once, waits in a schedule, and comes back."""

    async def handle(msg):
        if msg.attempt == 1:
            await msg.nak(delay=0.1)
        else:
            stage.see(msg.data)

    await consumed(stage, handle, durable="rescheduled", reschedule_after=0.1)


@verb
async def work_in_order(stage):
    """A lane is taken, a message fails once and has its turn again, the lane is left."""
    stream = f"{stage.stream}-lanes"
    await stage.sb.declare(StreamOptions(stream, [f"{stream}.a"], lanes=1))
    before = len(stage.seen)

    async def handle(msg):
        if msg.attempt == 1:
            raise RuntimeError("once")
        stage.see(msg.data)

    consumption = await stage.sb.consume(
        f"{stream}.a", handle, queue="ordered", ordered=True, backoff=(), max_deliver=GIVEN_BACK
    )
    try:
        await stage.sb.enqueue(f"{stream}.a", b"x", ordering_key="ann")
        await stage.sees_more_than(before)
    finally:
        await consumption.drain()


async def consumed(stage, handle, **options):
    options = {"max_deliver": GIVEN_BACK, **options}
    consumption = await stage.sb.consume(stage.subject("work"), handle, ack_wait=ACK_WAIT, **options)
    try:
        before = len(stage.seen)
        await stage.sb.enqueue(stage.subject("work"), b"x")
        await stage.sees_more_than(before)
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


# -- keys


@verb
async def key_value(stage):
    await stage.sb.key_value(stage.stream)


@verb
async def key_value_writing(stage):
    kv = await stage.sb.key_value(stage.stream)
    revision = await kv.put("a", b"1")
    await kv.update("a", b"2", revision=revision)
    await kv.modify("a", lambda entry: entry.value + b"3")
    assert (await kv.get("a")).value == b"23"
    await kv.purge("a")
    await kv.create("a", b"4")


@verb
async def key_value_watch(stage):
    kv = await stage.sb.key_value(stage.stream)
    await kv.put("a", b"1")
    async with kv.watch() as watch:
        assert (await anext(watch)).value == b"1"
    assert len(await kv.history("a")) >= 1
    async with aclosing(kv.keys()) as keys:
        assert [key async for key in keys] == ["a"]


@verb
async def key_value_absence(stage):
    kv = await stage.sb.key_value(stage.stream)
    await kv.put("b", b"1")
    async with kv.watch("b") as watch:
        assert (await anext(watch)).key == "b"
        async with aclosing(stage.sb.consumers.names(f"KV_{stage.stream}")) as names:
            made = [name async for name in names]
        for name in made:
            await stage.sb.consumers.delete(f"KV_{stage.stream}", name)
        await kv.delete("b")
        await kv.purge_deletes(older_than=0)
        assert (await anext(watch)).deleted


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


@verb
async def sweep(stage):
    await stage.sb.dead_letters.sweep(stage.stream)


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
