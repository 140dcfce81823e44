"""Transactions: cancelled anywhere, they leave no lock behind and never half of what belongs together."""

import asyncio

import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from broker.exactly_once.databases import Database
from broker.exactly_once.marks import Mark
from broker.exactly_once.recording import Recording
from broker.exactly_once.transactions import Transactions
from broker.testing.cancelling import cancelled_everywhere
from broker.testing.waiting import eventually

pytestmark = pytest.mark.timeout(120)


@pytest_asyncio.fixture(params=["ours", "theirs"])
async def database(request, url):
    engine = create_async_engine(url) if request.param == "theirs" else None
    opened = Database(engine or url)
    yield opened
    await opened.close()
    if engine is not None:
        await engine.dispose()


async def rows(ledger):
    async with ledger.engine.connect() as connection:
        marks = (await connection.execute(text("SELECT key FROM gamebroker_inbox"))).scalars().all()
        return sorted(marks), sorted(await ledger.paid())


async def idle_in_transaction(ledger):
    query = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
    async with ledger.engine.connect() as connection:
        others = (await connection.execute(text(f"{query} AND pid <> pg_backend_pid()"))).scalar_one()
        return others == 0


async def test_a_transaction_cancelled_at_any_wait_is_whole_and_leaves_no_lock(database, ledger, kind):
    transactions, recording = Transactions(database), Recording(database.kind)
    names = (f"battle-{n:04}" for n in range(10_000))
    undisturbed = []

    async def apply():
        name = next(names)
        async with transactions.begin() as tx:
            await recording.record(tx, "w", [Mark("battle.settle", name, b"x" * 32, "BATTLES", 1)])
            await ledger.pay(tx, name)
        return name

    async for run in cancelled_everywhere(apply, within=10):
        async with asyncio.timeout(10):
            undisturbed.append(await apply())  # nobody holds a lock
        if not run.reached:
            undisturbed.append(run.result)
    marks, paid = await rows(ledger)
    assert marks == paid
    assert set(undisturbed) <= set(marks)
    if kind == "postgresql":
        await eventually(lambda: idle_in_transaction(ledger))


@pytest.mark.usefixtures("ledger")
async def test_after_a_cancellation_no_statement_gets_the_answer_of_another(database):
    """psycopg sends many rows in a pipeline; cancelled in it, its connection gave answers one statement late."""
    transactions = Transactions(database)
    rows = [{"player": f"p{n}", "amount": n} for n in range(5)]

    async def write():
        async with transactions.begin() as tx:
            await tx.execute(text("INSERT INTO paid VALUES (:player, :amount)"), rows)
            await tx.execute(text("SELECT 'mine'"))

    async for _ in cancelled_everywhere(write, within=10):
        for _ in range(3):
            async with transactions.reading() as connection:
                assert (await connection.execute(text("SELECT 'yours'"))).scalar_one() == "yours"


async def test_reading_cancelled_at_any_wait_leaves_no_lock(database, ledger):
    transactions = Transactions(database)

    async def read():
        async with transactions.reading() as connection:
            return len((await connection.execute(text("SELECT * FROM gamebroker_inbox"))).all())

    async for _ in cancelled_everywhere(read, within=10):
        async with asyncio.timeout(10), transactions.begin() as tx:
            await ledger.pay(tx, "ann")


async def test_writers_of_one_file_wait_in_turn(url, ledger):
    """Two that share nothing but the file, as an inbox and an outbox do: neither has to poll for the lock."""
    one, other = Database(url), Database(url)
    running = []

    async def write(database, name):
        async with Transactions(database).begin() as tx:
            running.append(name)
            await ledger.pay(tx, name)
            await asyncio.sleep(0.01)
            if database.kind == "sqlite":
                assert running == [name]
            running.remove(name)

    await asyncio.gather(*(write(each, f"{n}") for n in range(10) for each in (one, other)))
    assert sum((await ledger.paid()).values()) == 20
    await one.close()
    await other.close()
