"""``consume(inbox=...)``: the effect of a message happens once in the database that holds the inbox."""

import asyncio

import pytest
from sqlalchemy import Column, Integer, String, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase

from broker import AlreadySettled, Entry
from broker.exactly_once import Inbox, TransactionEnded, session_on
from broker.testing.waiting import eventually, never

SETTLE = "battle.settle"
WORKER = "settle-worker"


async def letters(sb):
    return [letter async for letter in sb.dead_letters.list()]


async def idle(sb, name=WORKER):
    info = await sb.consumers.info("BATTLES", name)
    return not info.pending and not info.ack_pending


def payer(ledger):
    async def pay(msg, tx):
        await ledger.pay(tx, msg.json()["winner"])

    return pay


async def enqueue(sb, winner, key=None, subject=SETTLE):
    return await sb.enqueue(subject, {"winner": winner}, idempotency_key=key)


async def past_the_window():
    await asyncio.sleep(0.15)


async def test_what_comes_again_is_applied_once(battles, inbox, ledger):
    await battles.consume(SETTLE, payer(ledger), durable=WORKER, inbox=inbox)
    for _ in range(3):
        await enqueue(battles, "ann", "battle-1")
        await past_the_window()
    await enqueue(battles, "bob", "battle-2")
    await eventually(lambda: inbox.stats.applied == 2 and inbox.stats.duplicates == 2)
    await eventually(lambda: idle(battles))
    assert await ledger.paid() == {"ann": 1, "bob": 1}
    assert await letters(battles) == []


async def test_the_same_key_with_another_body_is_a_dead_letter_and_never_applied(battles, inbox, ledger):
    await battles.consume(SETTLE, payer(ledger), durable=WORKER, inbox=inbox)
    await enqueue(battles, "ann", "battle-1")
    await past_the_window()
    await enqueue(battles, "eve", "battle-1")
    (letter,) = await eventually(lambda: letters(battles))
    assert (letter.reason, letter.idempotency_key, letter.data) == ("conflict", "battle-1", b'{"winner":"eve"}')
    await eventually(lambda: idle(battles))
    assert await ledger.paid() == {"ann": 1}
    assert inbox.stats.conflicts == 1


async def test_a_key_names_an_effect_of_its_subject_and_of_its_consumer(battles, inbox, ledger):
    await battles.consume("battle.>", payer(ledger), durable=WORKER, inbox=inbox)
    await battles.consume("battle.>", payer(ledger), durable="other-worker", inbox=inbox)
    await enqueue(battles, "ann", "battle-1")
    await enqueue(battles, "bob", "battle-1", subject="battle.aborted")
    await eventually(lambda: inbox.stats.applied == 4)
    assert await ledger.paid() == {"ann": 2, "bob": 2}


async def test_messages_without_a_key_are_told_apart(battles, inbox, ledger):
    await battles.consume(SETTLE, payer(ledger), durable=WORKER, inbox=inbox)
    for _ in range(3):
        await enqueue(battles, "ann")
    await eventually(lambda: inbox.stats.applied == 3)
    assert await ledger.paid() == {"ann": 3}


async def test_a_failing_handler_leaves_nothing_and_is_tried_again(battles, inbox, ledger):
    attempts = []

    async def pay(msg, tx):
        attempts.append(msg.attempt)
        await ledger.pay(tx, msg.json()["winner"])
        if len(attempts) < 3:
            raise RuntimeError("not now")

    await battles.consume(SETTLE, pay, durable=WORKER, inbox=inbox, backoff=[0.05])
    await enqueue(battles, "ann", "battle-1")
    await eventually(lambda: inbox.stats.applied == 1)
    assert attempts == [1, 2, 3]
    assert await ledger.paid() == {"ann": 1}


async def test_what_gave_up_is_not_remembered_and_its_replay_is_applied(battles, inbox, ledger):
    broken = asyncio.Event()

    async def pay(msg, tx):
        await ledger.pay(tx, msg.json()["winner"])
        if not broken.is_set():
            raise RuntimeError("broken")

    await battles.consume(SETTLE, pay, durable=WORKER, inbox=inbox, backoff=[0.02], max_deliver=2)
    await enqueue(battles, "ann", "battle-1")
    (letter,) = await eventually(lambda: letters(battles))
    assert letter.reason == "max_deliver"
    assert await ledger.paid() == {}
    broken.set()
    await battles.dead_letters.replay(letter)
    await eventually(lambda: inbox.stats.applied == 1)
    assert await ledger.paid() == {"ann": 1}


@pytest.mark.parametrize("how", ["nak", "term"])
async def test_what_the_handler_gives_up_is_rolled_back(battles, inbox, ledger, how):
    async def pay(msg, tx):
        await ledger.pay(tx, msg.json()["winner"])
        if msg.attempt == 1:
            await (msg.nak(delay=0.02) if how == "nak" else msg.term("nobody won"))
            with pytest.raises(AlreadySettled):
                await msg.ack()

    await battles.consume(SETTLE, pay, durable=WORKER, inbox=inbox)
    await enqueue(battles, "ann", "battle-1")
    if how == "nak":
        await eventually(lambda: inbox.stats.applied == 1)
        assert await ledger.paid() == {"ann": 1}
    else:
        (letter,) = await eventually(lambda: letters(battles))
        assert letter.reason == "nobody won"
        await eventually(lambda: idle(battles))
        assert await ledger.paid() == {}
        assert await inbox.applied(WORKER, [(SETTLE, "battle-1")]) == set()


async def test_an_ack_by_hand_waits_for_the_commit(battles, inbox, ledger):
    attempts = []

    async def pay(msg, tx):
        attempts.append(msg.attempt)
        await ledger.pay(tx, msg.json()["winner"])
        await msg.ack(confirm=True)
        if len(attempts) == 1:
            raise RuntimeError("after the ack")

    await battles.consume(SETTLE, pay, durable=WORKER, inbox=inbox, backoff=[0.02])
    await enqueue(battles, "ann", "battle-1")
    await eventually(lambda: inbox.stats.applied == 1)
    await eventually(lambda: idle(battles))
    assert attempts == [1, 2]
    assert await ledger.paid() == {"ann": 1}


async def test_a_handler_that_swallows_a_failed_statement_is_not_taken_for_done(battles, inbox, ledger):
    """PostgreSQL answers the COMMIT of such a transaction with a silent rollback: an ack would lose the message."""
    async with inbox.engine.begin() as connection:
        await connection.execute(text("CREATE TABLE once (player TEXT PRIMARY KEY)"))
        await connection.execute(text("INSERT INTO once VALUES ('ann')"))
    results = []

    async def pay(msg, tx):
        await ledger.pay(tx, msg.json()["winner"])
        try:
            await tx.execute(text("INSERT INTO once VALUES ('ann')"))
        except IntegrityError:
            results.append("swallowed")

    await battles.consume(SETTLE, pay, durable=WORKER, inbox=inbox, backoff=[0.02], max_deliver=2)
    await enqueue(battles, "ann", "battle-1")
    if inbox.engine.dialect.name == "postgresql":
        (letter,) = await eventually(lambda: letters(battles))
        assert letter.error_type == "TransactionEnded"
        assert await ledger.paid() == {}
    else:  # there a failed statement is undone alone, and the rest of the transaction stands
        await eventually(lambda: inbox.stats.applied == 1)
        assert await ledger.paid() == {"ann": 1}
    assert results


@pytest.mark.parametrize("how", ["commit", "rollback", "close", "COMMIT", "ROLLBACK"])
async def test_the_transaction_is_not_the_handlers_to_end(battles, inbox, ledger, how):
    async def pay(_, tx):
        if how.isupper():
            await tx.execute(text(how))
        else:
            await getattr(tx, how)()

    await battles.consume(SETTLE, pay, durable=WORKER, inbox=inbox, backoff=[0.02], max_deliver=1)
    await enqueue(battles, "ann", "battle-1")
    (letter,) = await eventually(lambda: letters(battles))
    assert letter.error_type == TransactionEnded.__name__
    assert await ledger.paid() == {}


async def test_what_may_fail_alone_goes_into_a_savepoint(battles, inbox, ledger):
    async def pay(msg, tx):
        await ledger.pay(tx, msg.json()["winner"])
        savepoint = await tx.begin_nested()
        await ledger.pay(tx, "sponsor")
        await savepoint.rollback()

    await battles.consume(SETTLE, pay, durable=WORKER, inbox=inbox)
    await enqueue(battles, "ann", "battle-1")
    await eventually(lambda: inbox.stats.applied == 1)
    assert await ledger.paid() == {"ann": 1}


class Base(DeclarativeBase):
    pass


class Wallet(Base):
    __tablename__ = "wallet"
    player = Column(String, primary_key=True)
    coins = Column(Integer, nullable=False)


async def test_an_orm_session_works_inside_the_transaction(battles, inbox):
    async with inbox.engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    attempts = []

    async def pay(msg, tx):
        attempts.append(msg.attempt)
        async with session_on(tx) as session:
            wallet = await session.get(Wallet, msg.json()["winner"], with_for_update=True)
            if wallet is None:
                session.add(Wallet(player=msg.json()["winner"], coins=1))
            else:
                wallet.coins += 1
        if len(attempts) == 1:
            raise RuntimeError("what the session has written goes with the transaction")

    await battles.consume(SETTLE, pay, durable=WORKER, inbox=inbox, backoff=[0.02])
    for number in range(5):
        await enqueue(battles, "ann", f"battle-{number}")
    await eventually(lambda: inbox.stats.applied == 5)
    async with inbox.engine.connect() as connection:
        assert (await connection.execute(select(Wallet.coins))).scalar_one() == 5


async def test_your_own_engine_is_used_and_stays_open(battles, url, ledger):
    engine = create_async_engine(url)
    async with Inbox(engine) as inbox:
        await battles.consume(SETTLE, payer(ledger), durable=WORKER, inbox=inbox)
        await enqueue(battles, "ann", "battle-1")
        await eventually(lambda: inbox.stats.applied == 1)
    async with engine.connect() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM gamebroker_inbox"))).scalar_one() == 1
    await engine.dispose()


async def test_two_workers_at_once_apply_each_message_once(battles, url, inbox, ledger):
    async with Inbox(url) as other:
        for mine in (inbox, other):
            await battles.consume(SETTLE, payer(ledger), durable=WORKER, inbox=mine, concurrency=8)
        for _ in range(2):
            await battles.enqueue_many(
                Entry(SETTLE, {"winner": f"p{n % 10}"}, idempotency_key=f"battle-{n}") for n in range(100)
            )
            await past_the_window()
        await eventually(lambda: idle(battles), within=15)
        assert await ledger.paid() == {f"p{n}": 10 for n in range(10)}
        assert inbox.stats.applied + other.stats.applied == 100


async def test_a_handler_that_is_cut_short_by_draining_leaves_nothing(battles, inbox, ledger):
    written = asyncio.Event()

    async def pay(msg, tx):
        await ledger.pay(tx, msg.json()["winner"])
        written.set()
        await asyncio.sleep(60)

    worker = await battles.consume(SETTLE, pay, durable=WORKER, inbox=inbox)
    await enqueue(battles, "ann", "battle-1")
    await written.wait()
    await worker.drain(timeout=0)
    assert await ledger.paid() == {}
    await battles.consume(SETTLE, payer(ledger), durable=WORKER, inbox=inbox)
    await eventually(lambda: inbox.stats.applied == 1)
    assert await ledger.paid() == {"ann": 1}


async def test_a_handler_that_still_runs_when_its_message_comes_again_runs_once(battles, inbox, ledger):
    gate, calls = asyncio.Event(), []

    async def pay(msg, tx):
        calls.append(msg.sequence)
        await gate.wait()
        await ledger.pay(tx, msg.json()["winner"])

    await battles.consume(SETTLE, pay, durable=WORKER, inbox=inbox, ack_wait=0.2, auto_extend=False)
    await enqueue(battles, "ann", "battle-1")
    await never(lambda: len(calls) > 1, during=0.6)
    gate.set()
    await eventually(lambda: idle(battles))
    assert await ledger.paid() == {"ann": 1}


@pytest.mark.parametrize("options", [{}, {"batch_size": 5, "batch_timeout": 0.05}], ids=["each", "batch"])
async def test_attempts_used_up_are_no_dead_letter_if_one_was_applied(battles, inbox, ledger, options):
    """It committed and its ack was lost: it comes once more than it may, and the inbox knows better."""
    worker = await battles.consume(SETTLE, payer(ledger), durable=WORKER, inbox=inbox)
    await enqueue(battles, "ann", "battle-1")
    await eventually(lambda: inbox.stats.applied == 1)
    await worker.drain()
    await past_the_window()
    await enqueue(battles, "ann", "battle-1")
    await enqueue(battles, "bob", "battle-2")
    async with battles.pull(SETTLE, durable=WORKER, ensure="bind") as puller:
        for message in await puller.fetch(2, timeout=5):
            await message.nak()

    async def settle(_taken, _tx):
        raise AssertionError("handed out more often than it may be")

    await battles.consume(SETTLE, settle, durable=WORKER, inbox=inbox, max_deliver=1, **options)
    (letter,) = await eventually(lambda: letters(battles))
    await eventually(lambda: idle(battles))
    assert (letter.idempotency_key, letter.reason, letter.error_type) == (
        "battle-2",
        "max_deliver",
        "AttemptsExhausted",
    )
    assert inbox.stats.duplicates == 1
    assert await ledger.paid() == {"ann": 1}
