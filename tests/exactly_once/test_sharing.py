"""SQLite: messages that are there together share a transaction, and share nothing else."""

import asyncio
import random
from contextlib import suppress

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from broker import Entry
from broker.exactly_once import hooks
from broker.testing.waiting import eventually, never
from tests.exactly_once.test_inbox import SETTLE, WORKER, idle, letters

pytestmark = [pytest.mark.parametrize("kind", ["sqlite"]), pytest.mark.usefixtures("kind"), pytest.mark.timeout(60)]


def results(*winners):
    return [Entry(SETTLE, {"winner": winner}, idempotency_key=f"battle-{n}") for n, winner in enumerate(winners)]


@pytest.fixture
def commits(monkeypatch):
    counted = []
    monkeypatch.setattr(hooks, "_hooks", [lambda point: counted.append(point) if point == "after_commit" else None])
    return counted


async def test_what_is_there_together_is_committed_together(battles, inbox, ledger, commits):
    async def pay(msg, tx):
        await ledger.pay(tx, msg.json()["winner"])

    await battles.enqueue_many(results(*(f"p{n}" for n in range(64))))
    await battles.consume(SETTLE, pay, durable=WORKER, inbox=inbox, concurrency=16)
    await eventually(lambda: inbox.stats.applied == 64)
    await eventually(lambda: idle(battles))
    assert await ledger.paid() == {f"p{n}": 1 for n in range(64)}
    assert len(commits) < 40


@pytest.mark.parametrize(("concurrency", "held"), [(4, 64), (1, 1)])
async def test_handlers_take_turns_and_a_commits_worth_is_in_hand(battles, inbox, ledger, concurrency, held):
    running, most, go_on = 0, 0, asyncio.Event()

    async def pay(msg, tx):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await go_on.wait()
        await ledger.pay(tx, msg.json()["winner"])
        running -= 1

    await battles.enqueue_many(results(*(f"p{n}" for n in range(80))))
    consumption = await battles.consume(SETTLE, pay, durable=WORKER, inbox=inbox, concurrency=concurrency)
    await eventually(lambda: consumption.in_hand >= held and running)
    await never(lambda: consumption.in_hand > held, during=0.1)
    go_on.set()
    await eventually(lambda: inbox.stats.applied == 80)
    assert most == 1


async def test_each_runs_in_a_task_of_its_own(battles, inbox, ledger):
    tasks = []

    async def pay(msg, tx):
        tasks.append(asyncio.current_task())
        await ledger.pay(tx, msg.json()["winner"])

    await battles.enqueue_many(results(*(f"p{n}" for n in range(16))))
    await battles.consume(SETTLE, pay, durable=WORKER, inbox=inbox)
    await eventually(lambda: inbox.stats.applied == 16)
    assert len(set(tasks)) == 16


async def test_failures_among_them_cost_the_others_nothing(battles, inbox, ledger):
    async def pay(msg, tx):
        await ledger.pay(tx, msg.json()["winner"])
        await asyncio.sleep(random.uniform(0, 0.002))
        if msg.json()["winner"].startswith("nobody"):
            raise LookupError
        if msg.json()["winner"].startswith("shy") and msg.attempt == 1:
            await msg.nak(delay=0.02)

    names = [f"nobody{n}" if n % 17 == 3 else f"shy{n}" if n % 13 == 5 else f"p{n}" for n in range(150)]
    await battles.enqueue_many(results(*names))
    await battles.consume(SETTLE, pay, durable=WORKER, inbox=inbox, max_deliver=2, backoff=[0.02])
    await eventually(lambda: idle(battles), within=30)
    expected = {name: 1 for name in names if not name.startswith("nobody")}
    assert await ledger.paid() == expected
    assert inbox.stats.applied == len(expected)
    dead = await letters(battles)
    assert {letter.attempts for letter in dead} == {2}
    assert len(dead) == len(names) - len(expected)


async def test_slow_handlers_do_not_hold_the_file_for_each_other(battles, inbox, ledger, commits):
    async def pay(msg, tx):
        await ledger.pay(tx, msg.json()["winner"])
        await asyncio.sleep(0.05)

    await battles.enqueue_many(results(*(f"p{n}" for n in range(8))))
    await battles.consume(SETTLE, pay, durable=WORKER, inbox=inbox, concurrency=8)
    await eventually(lambda: inbox.stats.applied == 8)
    assert len(commits) == 8
    assert await ledger.paid() == {f"p{n}": 1 for n in range(8)}


async def test_draining_among_them_leaves_whole_effects(battles, inbox, ledger):
    async def pay(msg, tx):
        await ledger.pay(tx, msg.json()["winner"])
        await asyncio.sleep(random.uniform(0, 0.005))

    await battles.enqueue_many(results(*(f"p{n}" for n in range(100))))
    for _ in range(10):
        worker = await battles.consume(SETTLE, pay, durable=WORKER, inbox=inbox, max_deliver=100)
        await asyncio.sleep(random.uniform(0, 0.05))
        await worker.drain(timeout=0)
    await battles.consume(SETTLE, pay, durable=WORKER, inbox=inbox, max_deliver=100)
    await eventually(lambda: idle(battles), within=30)
    assert await ledger.paid() == {f"p{n}": 1 for n in range(100)}


@pytest.mark.parametrize("goes_on", [False, True])
async def test_who_breaks_the_transaction_for_all_pays_alone(battles, inbox, ledger, goes_on):
    """OR ROLLBACK ends it for everybody; a handler that swallows the error goes on without one, or begins another."""
    async with inbox.engine.begin() as connection:
        await connection.execute(text("CREATE TABLE once (player TEXT PRIMARY KEY)"))
        await connection.execute(text("INSERT INTO once VALUES ('nobody')"))

    async def pay(msg, tx):
        await ledger.pay(tx, msg.json()["winner"])
        if msg.json()["winner"] == "nobody":
            with suppress(IntegrityError):
                await tx.execute(text("INSERT OR ROLLBACK INTO once VALUES ('nobody')"))
            if goes_on:
                await ledger.pay(tx, "nobody")

    names = ["nobody" if n == 7 else f"p{n}" for n in range(40)]
    await battles.enqueue_many(results(*names))
    await battles.consume(SETTLE, pay, durable=WORKER, inbox=inbox, max_deliver=3, backoff=[0.02])
    await eventually(lambda: idle(battles), within=30)
    assert await ledger.paid() == {name: 1 for name in names if name != "nobody"}
    (letter,) = await letters(battles)
    assert (letter.error_type, letter.attempts) == ("TransactionEnded", 3)
