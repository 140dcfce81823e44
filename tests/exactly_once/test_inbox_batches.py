"""Batch handlers with an inbox: one transaction for the batch, and one bad message costs the others nothing."""

import asyncio

import pytest

from broker import Entry
from broker.exactly_once import Inbox
from broker.testing.waiting import eventually
from tests.exactly_once.test_inbox import SETTLE, WORKER, idle, letters, past_the_window

BATCH = {"durable": WORKER, "batch_size": 20, "batch_timeout": 0.1}


def results(*winners, start=0):
    return [
        Entry(SETTLE, {"winner": winner}, idempotency_key=f"battle-{number}")
        for number, winner in enumerate(winners, start)
    ]


def payer(ledger, calls):
    async def pay(batch, tx):
        calls.append([msg.json()["winner"] for msg in batch])
        for msg in batch:
            if msg.json()["winner"] == "nobody":
                raise LookupError("no such player")
            await ledger.pay(tx, msg.json()["winner"])

    return pay


async def test_a_batch_is_one_transaction(battles, inbox, ledger):
    calls = []
    await battles.enqueue_many(results(*(f"p{n}" for n in range(20))))
    await battles.consume(SETTLE, payer(ledger, calls), inbox=inbox, **BATCH)
    await eventually(lambda: inbox.stats.applied == 20)
    await eventually(lambda: idle(battles))
    assert [winner for call in calls for winner in call] == [f"p{n}" for n in range(20)]
    assert await ledger.paid() == {f"p{n}": 1 for n in range(20)}


async def test_only_what_is_new_reaches_the_handler(battles, inbox, ledger):
    calls = []
    await battles.consume(SETTLE, payer(ledger, calls), inbox=inbox, **BATCH)
    await battles.enqueue_many(results("ann", "bob"))
    await eventually(lambda: inbox.stats.applied == 2)
    await past_the_window()
    await battles.enqueue_many([*results("ann", "eve"), *results("cyd", start=2)])
    await eventually(lambda: inbox.stats.applied == 3)
    (letter,) = await eventually(lambda: letters(battles))
    assert (letter.reason, letter.idempotency_key) == ("conflict", "battle-1")
    await eventually(lambda: idle(battles))
    assert calls[-1] == ["cyd"]
    assert await ledger.paid() == {"ann": 1, "bob": 1, "cyd": 1}


async def test_the_bad_message_fails_alone(battles, inbox, ledger):
    calls = []
    await battles.enqueue_many(results("ann", "nobody", "bob", "cyd"))
    await battles.consume(SETTLE, payer(ledger, calls), inbox=inbox, max_deliver=2, backoff=[0.02], **BATCH)
    (letter,) = await eventually(lambda: letters(battles))
    assert (letter.idempotency_key, letter.attempts, letter.error_type) == ("battle-1", 2, "LookupError")
    await eventually(lambda: idle(battles))
    assert await ledger.paid() == {"ann": 1, "bob": 1, "cyd": 1}
    assert inbox.stats.applied == 3
    assert battles.stats.handler_errors == 2
    assert await inbox.applied(WORKER, [(SETTLE, f"battle-{n}") for n in range(4)]) == {
        (SETTLE, f"battle-{n}") for n in (0, 2, 3)
    }


async def test_a_message_given_up_by_hand_is_not_remembered(battles, inbox, ledger):
    async def pay(batch, tx):
        for msg in batch:
            if msg.json()["winner"] == "nobody":
                await msg.term("nobody won")
            else:
                await ledger.pay(tx, msg.json()["winner"])

    await battles.enqueue_many(results("ann", "nobody", "bob"))
    await battles.consume(SETTLE, pay, inbox=inbox, **BATCH)
    (letter,) = await eventually(lambda: letters(battles))
    assert letter.reason == "nobody won"
    await eventually(lambda: idle(battles))
    assert await ledger.paid() == {"ann": 1, "bob": 1}
    assert await inbox.applied(WORKER, [(SETTLE, "battle-0"), (SETTLE, "battle-1")]) == {(SETTLE, "battle-0")}


async def test_a_repeat_and_a_conflict_within_one_batch(battles, inbox, ledger):
    calls = []
    for entry in (*results("ann"), *results("ann"), *results("eve"), *results("bob", start=1)):
        await battles.enqueue_many([entry])
        await past_the_window()
    await battles.consume(SETTLE, payer(ledger, calls), inbox=inbox, **BATCH)
    (letter,) = await eventually(lambda: letters(battles))
    assert letter.data == b'{"winner":"eve"}'
    await eventually(lambda: idle(battles))
    assert await ledger.paid() == {"ann": 1, "bob": 1}
    assert (inbox.stats.applied, inbox.stats.duplicates, inbox.stats.conflicts) == (2, 1, 1)


async def test_a_repeat_behind_one_that_fails_is_not_taken_for_done(battles, inbox, ledger):
    calls = []

    async def pay(batch, tx):
        for msg in batch:
            calls.append(msg.sequence)
            await ledger.pay(tx, msg.json()["winner"])
            if len(calls) == 1:
                raise RuntimeError("not now")

    for _ in range(2):
        await battles.enqueue_many(results("ann"))
        await past_the_window()
    await battles.consume(SETTLE, pay, inbox=inbox, backoff=[0.02], **BATCH)
    await eventually(lambda: inbox.stats.applied == 1 and inbox.stats.duplicates == 1)
    await eventually(lambda: idle(battles))
    assert await ledger.paid() == {"ann": 1}


async def test_workers_with_the_same_keys_in_other_orders_do_not_lock_in_circles(battles, url, inbox, ledger):
    """Everything twice, in opposite orders, to two workers: sorted before they are inserted, keys meet in order."""
    forth = [f"p{n}" for n in range(200)]
    entries = results(*forth)
    await battles.enqueue_many(entries)
    await past_the_window()
    await battles.enqueue_many(reversed(entries))
    async with Inbox(url) as other:
        for mine in (inbox, other):
            await battles.consume(SETTLE, payer(ledger, []), inbox=mine, concurrency=4, **BATCH)
        await eventually(lambda: idle(battles), within=15)
        assert inbox.stats.applied + other.stats.applied == 200
        assert inbox.stats.contended + other.stats.contended == 0
    assert await ledger.paid() == dict.fromkeys(forth, 1)


async def test_a_pause_keeps_the_whole_batch(battles, inbox, ledger):
    class BankClosed(Exception): ...

    calls = []

    async def pay(batch, tx):
        calls.append(len(batch))
        for msg in batch:
            await ledger.pay(tx, msg.json()["winner"])
        if len(calls) == 1:
            raise BankClosed

    options = {"on_error": {BankClosed: "pause"}, "pause_for": 0.1}
    await battles.enqueue_many(results("ann", "bob"))
    await battles.consume(SETTLE, pay, inbox=inbox, **options, **BATCH)
    await eventually(lambda: inbox.stats.applied == 2)
    assert calls == [2, 2]
    assert await ledger.paid() == {"ann": 1, "bob": 1}


@pytest.mark.timeout(60)
async def test_a_cancelled_batch_leaves_nothing(battles, inbox, ledger):
    begun = asyncio.Event()

    async def pay(batch, tx):
        for msg in batch:
            await ledger.pay(tx, msg.json()["winner"])
        begun.set()
        await asyncio.sleep(60)

    worker = await battles.consume(SETTLE, pay, inbox=inbox, **BATCH)
    await battles.enqueue_many(results("ann", "bob"))
    await begun.wait()
    await worker.drain(timeout=0)
    assert await ledger.paid() == {}
    await battles.consume(SETTLE, payer(ledger, []), inbox=inbox, **BATCH)
    await eventually(lambda: inbox.stats.applied == 2)
    assert await ledger.paid() == {"ann": 1, "bob": 1}
