"""HOSTILE 5: the inbox (each test states a promise that did not hold when it was written)."""

import asyncio

import pytest
import pytest_asyncio
from sqlalchemy import event, text, update
from sqlalchemy.ext.asyncio import create_async_engine

from broker import BrokerError, StreamOptions
from broker.exactly_once import Inbox
from broker.exactly_once.schema import INBOX
from broker.testing.waiting import eventually, never
from tests.exactly_once.conftest import Ledger

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(params=["memory"])
def sb(request):
    return request.getfixturevalue("memory_stream_broker" if request.param == "memory" else "stream_broker")


@pytest.mark.parametrize("how", ["run_sync", "get_transaction", "driver", "comment"])
async def test_a_commit_by_another_door_doubles_nobody_elses_effect(battles, inbox, ledger, how):
    """TransactionEnded: "nothing of it may count as done". In a shared transaction others' effects stand, markless."""

    async def settle(msg, tx):
        name = msg.json()
        await ledger.pay(tx, name)
        if name == "rude" and msg.attempt == 1:
            if how == "run_sync":
                await tx.run_sync(lambda connection: connection.commit())
            elif how == "get_transaction":
                await tx.get_transaction().commit()
            elif how == "driver":
                await (await tx.get_raw_connection()).driver_connection.commit()
            else:
                await tx.exec_driver_sql("/* done */ COMMIT")

    for name in ("ann", "bob", "rude", "cid"):
        await battles.enqueue("battle.settle", name, idempotency_key=name)
    await battles.consume("battle.settle", settle, durable="w", inbox=inbox, backoff=[0.05])
    await eventually(lambda: inbox.stats.applied + inbox.stats.duplicates >= 4, within=15)
    paid = await ledger.paid()
    assert {name: paid.get(name) for name in ("ann", "bob", "cid")} == {"ann": 1, "bob": 1, "cid": 1}


async def test_what_outlives_its_handler_writes_in_nobody_elses_transaction(battles, inbox, ledger):
    """A handler whose gather() fails leaves the other half running: on SQLite it pays in the next one's transaction."""
    failed = 0

    async def late(tx, name):
        await asyncio.sleep(0.01)
        await ledger.pay(tx, name)

    async def refuse():
        raise ConnectionError

    async def settle(msg, tx):
        nonlocal failed
        name = msg.json()
        if name == "ann" and failed < 2:
            failed += 1
            await asyncio.gather(late(tx, name), refuse())
        await ledger.pay(tx, name)
        await asyncio.sleep(0.015)

    for name in ("bad", "ann", *(f"p{n}" for n in range(40))):
        await battles.enqueue("battle.settle", name, idempotency_key=name)
    await battles.consume("battle.settle", settle, durable="w", inbox=inbox, backoff=[0.05])
    await eventually(lambda: inbox.stats.applied >= 42, within=30)
    assert (await ledger.paid())["ann"] == 1


async def test_a_mark_stays_while_a_repeat_of_its_message_is_in_the_stream(battles, inbox, ledger):
    """Stored twice: the mark has the first one's place, and goes with it; the second one may come again."""

    async def settle(msg, tx):
        await ledger.pay(tx, "ann")

    first = await battles.consume("battle.settle", settle, durable="w", inbox=inbox)
    await battles.enqueue("battle.settle", b"x", idempotency_key="k")
    await asyncio.sleep(0.3)  # past the stream's window
    again = await battles.enqueue("battle.settle", b"x", idempotency_key="k")
    assert not again.duplicate
    await eventually(lambda: inbox.stats.duplicates == 1)
    await first.drain()
    await battles.streams.delete_message("BATTLES", 1)  # by hand, by max_msgs, by a purge of what is old
    async with inbox.engine.begin() as connection:
        await connection.execute(update(INBOX).values(at=1.0))  # time goes by
    await inbox.prune(battles, stream="BATTLES", consumer="w")
    await battles.consumers.delete("BATTLES", "w")  # the replay the inbox is for
    await battles.consume("battle.settle", settle, durable="w", inbox=inbox)
    await never(lambda: inbox.stats.applied > 1)
    assert await ledger.paid() == {"ann": 1}


@pytest.mark.parametrize("kind", ["sqlite"])
@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("how", ["recipe", "autocommit=False", "autocommit=True"])
async def test_an_engine_on_which_no_transaction_can_begin_is_refused_at_the_start(battles, url, how):
    """SQLAlchemy's own recipe for savepoints on SQLite, and what it recommends since Python 3.12."""
    async with Inbox(url) as maker:
        await maker.create()
        await Ledger(maker).create()
    arguments = {"autocommit": how.endswith("True")} if "=" in how else {}
    engine = create_async_engine(url, connect_args=arguments)
    if how == "recipe":

        @event.listens_for(engine.sync_engine, "connect")
        def _(connection, _record):
            connection.isolation_level = None

        @event.listens_for(engine.sync_engine, "begin")
        def _(connection):
            connection.exec_driver_sql("BEGIN")

    inbox = Inbox(engine)
    ledger = Ledger(inbox)

    async def settle(msg, tx):
        await ledger.pay(tx, msg.json())

    try:
        await battles.consume("battle.settle", settle, durable="w", inbox=inbox, backoff=[0.01])
    except BrokerError as refused:
        print("refused:", refused)
        return
    await battles.enqueue("battle.settle", "ann", idempotency_key="k")
    await battles.enqueue("battle.settle", "bob", idempotency_key="k2")

    async def letters():
        return [(letter.reason, letter.error) async for letter in battles.dead_letters.list()]

    for _ in range(30):
        await asyncio.sleep(0.1)
    print(how, await letters(), inbox.stats)
    await engine.dispose()
    async with Inbox(url) as reader:
        assert await Ledger(reader).paid() == {"ann": 1, "bob": 1}
