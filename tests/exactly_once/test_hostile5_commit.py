"""HOSTILE 5: commits that fail, transactions that the database ends (each states a promise that did not hold)."""

import asyncio
import sqlite3

import pytest
from sqlalchemy import text

from broker.testing.waiting import eventually

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(params=["memory"])
def sb(request):
    return request.getfixturevalue("memory_stream_broker" if request.param == "memory" else "stream_broker")


async def letters(sb):
    return [(letter.idempotency_key, letter.error) async for letter in sb.dead_letters.list()]


@pytest.mark.parametrize("size", [None, 10])
async def test_what_only_the_commit_refuses_costs_nobody_else_anything(battles, inbox, ledger, size):
    """A ledger whose entries must add up is checked at the commit: DEFERRABLE INITIALLY DEFERRED."""
    async with inbox.engine.begin() as connection:
        await connection.execute(text("CREATE TABLE player (name TEXT PRIMARY KEY)"))
        await connection.execute(text("INSERT INTO player VALUES ('ann'), ('bob'), ('cid')"))
        await connection.execute(
            text("CREATE TABLE entry (name TEXT REFERENCES player (name) DEFERRABLE INITIALLY DEFERRED)")
        )

    async def settle(taken, tx):
        for msg in taken if isinstance(taken, list) else [taken]:
            await tx.execute(text("INSERT INTO entry VALUES (:name)"), {"name": msg.json()})

    for name in ("ann", "bob", "nobody", "cid"):
        await battles.enqueue("battle.settle", name, idempotency_key=name)
    more = {} if size is None else {"batch_size": size, "batch_timeout": 0.2}
    await battles.consume(
        "battle.settle", settle, durable="w", inbox=inbox, backoff=[0.05], max_deliver=3, concurrency=10, **more
    )

    async def paid():
        async with inbox.engine.connect() as connection:
            return sorted((await connection.execute(text("SELECT name FROM entry"))).scalars())

    async def done():
        return len(await letters(battles)) + inbox.stats.applied >= 4

    await eventually(done, within=30)
    assert (await paid(), [key for key, _ in await letters(battles)]) == (["ann", "bob", "cid"], ["nobody"])


@pytest.mark.parametrize("kind", ["sqlite"])
@pytest.mark.usefixtures("kind")
async def test_a_commit_that_fails_leaves_no_lock_behind(battles, inbox):
    """SQLite keeps the transaction open then, and SQLAlchemy puts its connection into the pool as it is."""
    async with inbox.engine.begin() as connection:
        await connection.execute(text("CREATE TABLE player (name TEXT PRIMARY KEY)"))
        await connection.execute(
            text("CREATE TABLE entry (name TEXT REFERENCES player (name) DEFERRABLE INITIALLY DEFERRED)")
        )

    async def settle(msg, tx):
        await tx.execute(text("INSERT INTO entry VALUES ('nobody')"))

    await battles.enqueue("battle.settle", "nobody", idempotency_key="k")
    await battles.consume("battle.settle", settle, durable="w", inbox=inbox, backoff=[0.05], max_deliver=1)
    await eventually(lambda: letters(battles))

    def write_in_another_process():
        other = sqlite3.connect(inbox.engine.url.database, timeout=2)
        try:
            other.execute("BEGIN IMMEDIATE")
        finally:
            other.close()

    await asyncio.to_thread(write_in_another_process)


@pytest.mark.parametrize("kind", ["sqlite"])
@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("size", [None, 10])
async def test_a_transaction_that_sqlite_ended_is_not_taken_for_whole_when_a_statement_begins_another(
    battles, inbox, ledger, size
):
    """ON CONFLICT ROLLBACK, RAISE(ROLLBACK), a full disk: SQLite undoes everything. The handler swallows it and goes on."""
    async with inbox.engine.begin() as connection:
        await connection.execute(text("CREATE TABLE season (player TEXT PRIMARY KEY ON CONFLICT ROLLBACK)"))
        await connection.execute(text("INSERT INTO season VALUES ('rude')"))

    async def settle(taken, tx):
        for msg in taken if isinstance(taken, list) else [taken]:
            name = msg.json()
            if name == "rude":
                try:
                    await tx.execute(text("INSERT INTO season VALUES ('rude')"))
                except Exception:
                    pass  # there already: fine
            await ledger.pay(tx, name)

    for name in ("ann", "bob", "rude", "cid"):
        await battles.enqueue("battle.settle", name, idempotency_key=name)
    more = {} if size is None else {"batch_size": size, "batch_timeout": 0.2}
    await battles.consume("battle.settle", settle, durable="w", inbox=inbox, backoff=[0.05], max_deliver=3, **more)

    async def done():
        return inbox.stats.applied + len(await letters(battles)) >= 4

    await eventually(done, within=30)
    paid = await ledger.paid()
    assert {name: paid.get(name) for name in ("ann", "bob", "cid")} == {"ann": 1, "bob": 1, "cid": 1}
