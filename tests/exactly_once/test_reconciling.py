"""Reconciling and forgetting: what was lost is sent again, and a key goes only when nothing can come back."""

import asyncio
import time

import pytest
import pytest_asyncio
from sqlalchemy import event, insert, text

from broker import InvalidOption, StreamOptions, SubjectTransform
from broker.exactly_once import Inbox, Outbox, Reconciled, reconcile
from broker.exactly_once.schema import OUTBOX
from broker.testing.waiting import eventually, never
from tests.exactly_once.conftest import Ledger
from tests.exactly_once.test_inbox import SETTLE, WORKER, idle, letters, past_the_window, payer

pytestmark = pytest.mark.timeout(60)

KEPT = StreamOptions("BATTLES", ["battle.>"], duplicate_window=0.1, storage="memory")
QUEUE = StreamOptions("BATTLES", ["battle.>"], duplicate_window=0.1, storage="memory", retention="workqueue")
DAY = 86_400.0


@pytest_asyncio.fixture
async def outbox(inbox):
    return Outbox(inbox.engine)


@pytest.fixture(params=[KEPT, QUEUE], ids=["limits", "workqueue"])
def stream(request):
    return request.param


async def send(outbox, sb, *winners):
    before = outbox.stats.sent
    async with outbox.engine.begin() as tx:
        for winner in winners:
            await outbox.enqueue(tx, SETTLE, {"winner": winner}, idempotency_key=f"battle-{winner}")
    async with outbox.relay(sb, poll=0.05):
        await eventually(lambda: outbox.stats.sent == before + len(winners), within=15)
        await eventually(lambda: nothing_waits(outbox), within=15)
    await past_the_window()


async def nothing_waits(outbox):
    return await outbox.waiting() == 0


async def look(outbox, inbox, sb):
    return await reconcile(outbox, inbox, sb, stream="BATTLES", consumer=WORKER, older_than=0.11)


async def test_what_the_server_lost_is_sent_again_and_applied_once(sb, stream, inbox, outbox, ledger):
    await sb.declare(stream)
    worker = await sb.consume(SETTLE, payer(ledger), durable=WORKER, inbox=inbox)
    await send(outbox, sb, "ann", "bob")
    await eventually(lambda: inbox.stats.applied == 2)
    await eventually(lambda: idle(sb))
    await worker.drain()
    await send(outbox, sb, "cyd", "dan")
    await sb.streams.purge("BATTLES")  # as a damaged disk would
    assert await look(outbox, inbox, sb) == Reconciled(settled=2, again=2)
    await sb.consume(SETTLE, payer(ledger), durable=WORKER, inbox=inbox)
    async with outbox.relay(sb, poll=0.05):
        await eventually(lambda: inbox.stats.applied == 4, within=15)
    await past_the_window()
    await eventually(lambda: idle(sb))
    assert await ledger.paid() == dict.fromkeys(["ann", "bob", "cyd", "dan"], 1)
    assert await look(outbox, inbox, sb) == Reconciled(settled=2)
    assert await look(outbox, inbox, sb) == Reconciled()
    assert await outbox.prune(keep=0, settled_only=True) == 4


async def test_a_stream_made_anew_reuses_sequences_and_deceives_nobody(sb, stream, inbox, outbox, ledger):
    await sb.declare(stream)
    await send(outbox, sb, "ann")
    await sb.streams.delete("BATTLES")
    await sb.declare(stream)
    await sb.enqueue(SETTLE, {"winner": "zoe"}, idempotency_key="battle-zoe")  # it has ann's sequence now
    assert await look(outbox, inbox, sb) == Reconciled(again=1)
    await sb.consume(SETTLE, payer(ledger), durable=WORKER, inbox=inbox)
    async with outbox.relay(sb, poll=0.05):
        await eventually(lambda: inbox.stats.applied == 2, within=15)
    assert await ledger.paid() == {"ann": 1, "zoe": 1}


async def test_pages_of_what_was_sent_in_one_moment_leave_nothing_out(memory_stream_broker, inbox, outbox, kind):
    """And they are read from the index of what is not settled, whatever else is in the table."""
    await memory_stream_broker.declare(KEPT)
    told = {
        "subject": SETTLE,
        "body": b"",
        "created_at": 0,
        "due_at": 0,
        "attempts": 0,
        "repeats": 0,
        "stream": "BATTLES",
    }
    rows = [told | {"key": f"battle-{number}", "sent_at": 1.0, "sequence": number} for number in range(1_201)]
    async with outbox.engine.begin() as connection:
        await connection.execute(insert(OUTBOX), rows)
    asked = []
    event.listen(outbox.engine.sync_engine, "before_cursor_execute", lambda *told: asked.append(told[2:4]))
    assert await look(outbox, inbox, memory_stream_broker) == Reconciled(again=1_201)
    assert await outbox.waiting() == 1_201
    pages = [each for each in asked if "settled_at IS NULL" in each[0]]
    assert len(pages) == 4
    if kind == "sqlite":
        async with outbox.engine.connect() as connection:
            statement, values = pages[1]
            [step] = await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)
        assert "USING INDEX gamebroker_outbox_unsettled (sent_at>? AND sent_at<?)" in step[-1]


async def test_what_only_waits_is_left_alone(sb, stream, inbox, outbox):
    await sb.declare(stream)
    await send(outbox, sb, "ann", "bob")
    assert await look(outbox, inbox, sb) == Reconciled(waiting=2)
    assert await outbox.waiting() == 0


async def test_what_another_client_acked_is_sent_again(sb, inbox, outbox, ledger):
    """The consumer's position is past it, and nobody has applied it."""
    await sb.declare(KEPT)
    await send(outbox, sb, "ann")
    async with sb.pull(SETTLE, durable=WORKER) as puller:
        for message in await puller.fetch(1, timeout=5):
            await message.ack(confirm=True)
    assert await look(outbox, inbox, sb) == Reconciled(again=1)
    await sb.consume(SETTLE, payer(ledger), durable=WORKER, inbox=inbox, max_ack_pending=1000)
    async with outbox.relay(sb, poll=0.05):
        await eventually(lambda: inbox.stats.applied == 1, within=15)


async def test_what_is_a_dead_letter_is_somebodys_decision(sb, stream, inbox, outbox):
    async def refuse(*_):
        raise RuntimeError("no")

    await sb.declare(stream)
    await sb.consume(SETTLE, refuse, durable=WORKER, inbox=inbox, max_deliver=1)
    await send(outbox, sb, "ann")
    await eventually(lambda: letters(sb))
    await eventually(lambda: idle(sb))
    assert await look(outbox, inbox, sb) == Reconciled(dead=1)


async def test_reconciling_within_the_duplicate_window_is_refused(sb, inbox, outbox):
    await sb.declare(KEPT)
    with pytest.raises(InvalidOption, match="duplicate window") as caught:
        await reconcile(outbox, inbox, sb, stream="BATTLES", consumer=WORKER, older_than=0.1)
    assert caught.value.option == "older_than"


# -- forgetting


async def age(inbox, days):
    async with inbox.engine.begin() as connection:
        await connection.execute(text("UPDATE gamebroker_inbox SET at = :at"), {"at": time.time() - days * DAY})


async def known(inbox):
    async with inbox.engine.connect() as connection:
        rows = await connection.execute(text("SELECT key FROM gamebroker_inbox ORDER BY key"))
        return list(rows.scalars())


async def settle_some(sb, inbox, ledger, *winners):
    worker = await sb.consume(SETTLE, payer(ledger), durable=WORKER, inbox=inbox)
    for winner in winners:
        await sb.enqueue(SETTLE, {"winner": winner}, idempotency_key=f"battle-{winner}")
    await eventually(lambda: inbox.stats.applied == len(winners))
    await eventually(lambda: idle(sb))
    await worker.drain()


async def prune(sb, inbox, **options):
    return await inbox.prune(sb, stream="BATTLES", consumer=WORKER, **options)


async def test_a_key_is_forgotten_when_it_is_old_and_its_message_gone(sb, stream, inbox, ledger):
    await sb.declare(stream)
    await settle_some(sb, inbox, ledger, "ann", "bob")
    assert await prune(sb, inbox) == 0
    await age(inbox, 91)
    if stream is KEPT:  # the stream has the messages still, and a lost position would bring them all back
        assert await prune(sb, inbox) == 0
        await sb.streams.purge("BATTLES", up_to=2)
        assert await prune(sb, inbox) == 1
        assert await known(inbox) == ["battle-bob"]
        await sb.streams.purge("BATTLES")
    assert await prune(sb, inbox) >= 1
    assert await known(inbox) == []
    assert inbox.stats.pruned == 2


async def test_what_its_consumer_does_not_take_is_left_alone(sb, inbox, outbox, ledger):
    await sb.declare(KEPT)
    seen = []
    worker = await sb.consume(SETTLE, payer(ledger), durable=WORKER, inbox=inbox)
    await sb.consume("battle.seen", lambda msg: seen.append(msg.idempotency_key), durable="other")
    await send(outbox, sb, "ann")
    async with outbox.engine.begin() as tx:
        await outbox.enqueue(tx, "battle.seen", 1, idempotency_key="a")
    async with outbox.relay(sb, poll=0.05):
        await eventually(lambda: nothing_waits(outbox))
    await past_the_window()
    await eventually(lambda: inbox.stats.applied == 1 and seen)
    await worker.drain()
    async with outbox.relay(sb, poll=0.05):
        assert await look(outbox, inbox, sb) == Reconciled(settled=1)
        await never(lambda: len(seen) > 1)


async def test_a_dead_letter_is_a_decision_and_what_is_discarded_stays_away(sb, inbox, outbox):
    await sb.declare(KEPT)

    async def refuse(msg, _tx):
        await msg.term("a cheat")

    await sb.consume(SETTLE, refuse, durable=WORKER, inbox=inbox)
    await send(outbox, sb, "ann")
    (letter,) = await eventually(lambda: letters(sb))
    assert await look(outbox, inbox, sb) == Reconciled(dead=1)
    await sb.dead_letters.discard(letter, "a cheat")
    assert await look(outbox, inbox, sb) == Reconciled()


async def test_a_stream_that_renames_is_refused(sb, inbox, outbox):
    renames = SubjectTransform("in.>", "battle.>")
    await sb.declare(StreamOptions("BATTLES", ["in.>"], storage="memory", subject_transform=renames))
    with pytest.raises(InvalidOption, match="subject_transform"):
        await look(outbox, inbox, sb)
    with pytest.raises(InvalidOption, match="subject_transform"):
        await prune(sb, inbox, outbox=outbox)


async def test_a_key_stays_while_the_dead_letter_of_a_message_without_one_has_it(sb, inbox, ledger):
    """Replayed, such a message is known by what it was stored as, and not applied again."""
    await sb.declare(KEPT)
    worker = await sb.consume(SETTLE, payer(ledger), durable=WORKER, inbox=inbox)
    await sb.enqueue(SETTLE, {"winner": "ann"})
    await eventually(lambda: inbox.stats.applied == 1)
    await eventually(lambda: idle(sb))
    await worker.drain()
    await sb.consumers.delete("BATTLES", WORKER)
    worker = await sb.consume(
        SETTLE, lambda msg: msg.nothing, durable=WORKER, max_deliver=1
    )  # somebody forgot the inbox
    await eventually(lambda: letters(sb))
    await worker.drain()
    await sb.streams.purge("BATTLES")
    await age(inbox, 91)
    assert await prune(sb, inbox) == 0
    assert await sb.dead_letters.replay() == 1
    await sb.consume(SETTLE, payer(ledger), durable=WORKER, inbox=inbox)
    await eventually(lambda: inbox.stats.duplicates == 1)
    assert await ledger.paid() == {"ann": 1}


@pytest.mark.parametrize("options", [{}, {"batch_size": 10, "batch_timeout": 0.05}], ids=["each", "batch"])
async def test_a_key_stays_as_long_as_a_later_copy_of_its_message(sb, inbox, ledger, options):
    """Stored once more past the window: the first copy may go, and the other one be read anew."""
    await sb.declare(KEPT)
    await settle_some(sb, inbox, ledger, "ann")
    await past_the_window()
    assert not (await sb.enqueue(SETTLE, {"winner": "ann"}, idempotency_key="battle-ann")).duplicate

    async def settle(_taken, _tx):
        raise AssertionError("settled before")

    worker = await sb.consume(SETTLE, settle, durable=WORKER, inbox=inbox, **options)
    await eventually(lambda: inbox.stats.duplicates == 1)
    await worker.drain()
    await sb.streams.purge("BATTLES", up_to=2)
    await age(inbox, 91)
    assert await prune(sb, inbox) == 0
    await sb.streams.purge("BATTLES")
    assert await prune(sb, inbox) == 1


async def test_a_stream_that_is_gone_brings_nothing_back(sb, inbox, ledger):
    await sb.declare(KEPT)
    await settle_some(sb, inbox, ledger, "ann")
    await age(inbox, 91)
    await sb.streams.delete("BATTLES")
    assert await prune(sb, inbox) == 1


async def test_a_key_stays_while_a_dead_letter_or_the_outbox_has_it(sb, inbox, outbox, ledger):
    await sb.declare(QUEUE)
    await settle_some(sb, inbox, ledger, "ann", "bob")
    worker = await sb.consume(SETTLE, payer(ledger), durable=WORKER, inbox=inbox)
    await past_the_window()
    await sb.enqueue(SETTLE, {"winner": "eve"}, idempotency_key="battle-ann")  # a conflict
    (letter,) = await eventually(lambda: letters(sb))
    await worker.drain()
    await send(outbox, sb, "bob")
    await sb.streams.purge("BATTLES")
    await age(inbox, 91)
    assert await prune(sb, inbox, outbox=outbox) == 0
    assert await known(inbox) == ["battle-ann", "battle-bob"]
    await sb.dead_letters.discard(letter)
    assert await prune(sb, inbox, outbox=outbox) == 1
    assert await look(outbox, inbox, sb) == Reconciled(settled=1)
    assert await prune(sb, inbox, outbox=outbox) == 1
    assert await known(inbox) == []


async def test_pruning_goes_in_batches_and_lets_others_write(sb, inbox, ledger):
    await sb.declare(QUEUE)
    rows = [
        {"key": f"battle-{n:05}", "digest": b"x" * 32, "sequence": 0, "at": time.time() - 100 * DAY}
        for n in range(4500)
    ]
    columns = "INSERT INTO gamebroker_inbox (consumer, subject, key, digest, stream, sequence, at) "
    async with inbox.engine.begin() as connection:
        values = f"VALUES ('{WORKER}', '{SETTLE}', :key, :digest, 'BATTLES', :sequence, :at)"
        await connection.execute(text(columns + values), rows)
    pruning = asyncio.create_task(prune(sb, inbox))
    await settle_some(sb, inbox, ledger, "ann")
    assert await pruning == 4500
    assert await known(inbox) == ["battle-ann"]


async def test_another_consumers_keys_are_left_alone(sb, url, inbox, ledger):
    await sb.declare(KEPT)
    await settle_some(sb, inbox, ledger, "ann")
    async with Inbox(url) as other:
        worker = await sb.consume(SETTLE, payer(Ledger(other)), durable="other", inbox=other)
        await eventually(lambda: other.stats.applied == 1)
        await worker.drain()
    await age(inbox, 91)
    await sb.streams.purge("BATTLES")
    assert await prune(sb, inbox) == 1
    assert await known(inbox) == ["battle-ann"]
