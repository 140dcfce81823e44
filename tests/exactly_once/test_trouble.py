"""A database in trouble costs time, not messages: it is waited out, and no attempt is used up."""

import asyncio
import sqlite3

import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from broker import Entry, StreamOptions
from broker.exactly_once import Inbox, hooks
from broker.testing.waiting import eventually, never
from loadtest.postgres import PostgresServer
from tests.exactly_once.conftest import Ledger
from tests.exactly_once.test_inbox import SETTLE, WORKER, enqueue, idle, letters, payer

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def own_postgres():
    """One that may be killed."""
    server = PostgresServer()
    server.start()
    yield server
    server.remove()


@pytest_asyncio.fixture
async def sb(memory_stream_broker):
    await memory_stream_broker.declare(StreamOptions("BATTLES", ["battle.>"]))
    return memory_stream_broker


@pytest_asyncio.fixture
async def opened(own_postgres):
    async with Inbox(own_postgres.url()) as inbox:
        await inbox.create()
        await Ledger(inbox).create()
        yield inbox


@pytest.fixture
def hook(monkeypatch):
    """Runs a function at a point, as often as it is reached until the test ends."""
    installed = []
    monkeypatch.setattr(hooks, "_hooks", installed)

    def at(point, function):
        installed.append(lambda reached: function() if reached == point else None)

    return at


@pytest.mark.parametrize("how", ["stop", "kill"])
@pytest.mark.parametrize("batch", [None, 10])
async def test_a_restart_of_the_database_loses_and_doubles_nothing(sb, own_postgres, opened, how, batch):
    ledger = Ledger(opened)
    handler = payer(ledger)
    if batch:

        async def handler(messages, tx):
            for msg in messages:
                await ledger.pay(tx, msg.json()["winner"])

    options = {"max_deliver": 2, "backoff": [0.01]} | ({"batch_size": batch, "batch_timeout": 0.05} if batch else {})
    worker = await sb.consume(SETTLE, handler, durable=WORKER, inbox=opened, **options)
    entries = [Entry(SETTLE, {"winner": f"p{n}"}, idempotency_key=f"battle-{n}") for n in range(600)]
    await sb.enqueue_many(entries)
    await eventually(lambda: opened.stats.applied > 50, within=15)
    getattr(own_postgres, how)()
    await eventually(lambda: opened.stats.outages > 3, within=15)
    own_postgres.start()
    await eventually(lambda: idle(sb), within=30)
    assert await ledger.paid() == {f"p{n}": 1 for n in range(600)}
    assert await letters(sb) == []
    await worker.drain()


async def test_a_worker_that_leaves_while_the_database_is_away_gives_its_messages_back(sb, own_postgres, opened):
    worker = await sb.consume(SETTLE, payer(Ledger(opened)), durable=WORKER, inbox=opened, max_deliver=1)
    own_postgres.stop()
    await enqueue(sb, "ann", "battle-1")
    await eventually(lambda: opened.stats.outages > 1, within=15)
    async with asyncio.timeout(10):
        await worker.drain(timeout=30)
    own_postgres.start()
    assert await letters(sb) == []
    await sb.consume(SETTLE, payer(Ledger(opened)), durable=WORKER, inbox=opened)
    await eventually(lambda: idle(sb), within=15)
    assert await Ledger(opened).paid() == {"ann": 1}


async def test_a_commit_whose_answer_is_lost_is_decided_by_the_inbox(sb, own_postgres, opened, hook):
    """The server has committed and the word of it is lost: to the worker it looks like any broken connection."""
    killed = []

    def lose_the_answer():
        if not killed:
            killed.append(True)
            own_postgres.kill()
            own_postgres.start()
            raise ConnectionResetError("the answer was lost")

    hook("after_commit", lose_the_answer)
    await sb.consume(SETTLE, payer(Ledger(opened)), durable=WORKER, inbox=opened, backoff=[0.05])
    await enqueue(sb, "ann", "battle-1")
    await eventually(lambda: idle(sb), within=20)
    assert killed
    assert await Ledger(opened).paid() == {"ann": 1}
    assert opened.stats.duplicates == 1


async def test_a_connection_that_breaks_in_the_commit_is_no_failure_of_the_handler(sb, own_postgres, opened, hook):
    killed = []

    def kill():
        if not killed:
            killed.append(True)
            own_postgres.kill()
            own_postgres.start()

    hook("before_commit", kill)
    await sb.consume(SETTLE, payer(Ledger(opened)), durable=WORKER, inbox=opened, max_deliver=1)
    await enqueue(sb, "ann", "battle-1")
    await eventually(lambda: idle(sb), within=20)
    assert await Ledger(opened).paid() == {"ann": 1}
    assert await letters(sb) == []
    assert sb.stats.handler_errors == 0


async def test_deadlocks_are_tried_again_and_cost_no_attempt(sb, opened):
    """Two messages lock two rows in opposite orders; PostgreSQL kills one of them."""
    async with opened.engine.begin() as connection:
        await connection.execute(text("CREATE TABLE room (name TEXT PRIMARY KEY, seats INTEGER)"))
        await connection.execute(text("INSERT INTO room VALUES ('a', 0), ('b', 0)"))
    both = asyncio.Barrier(2)
    attempts = []

    async def take(msg, tx):
        attempts.append(msg.attempt)
        for place, room in enumerate(msg.json()):
            await tx.execute(text("UPDATE room SET seats = seats + 1 WHERE name = :room"), {"room": room})
            if place == 0 and len(attempts) <= 2:
                await both.wait()

    await sb.enqueue_many(
        [Entry(SETTLE, ["a", "b"], idempotency_key="1"), Entry(SETTLE, ["b", "a"], idempotency_key="2")]
    )
    await sb.consume(SETTLE, take, durable=WORKER, inbox=opened, max_deliver=1)
    await eventually(lambda: idle(sb), within=20)
    assert opened.stats.contended >= 1
    assert set(attempts) == {1}
    assert await letters(sb) == []
    async with opened.engine.connect() as connection:
        assert set((await connection.execute(text("SELECT seats FROM room"))).scalars()) == {2}


async def test_serialization_failures_are_tried_again(sb, own_postgres):
    engine = create_async_engine(own_postgres.url(), isolation_level="SERIALIZABLE", pool_size=10)
    async with Inbox(engine) as inbox:
        await inbox.create()
        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE counter (n INTEGER)"))
            await connection.execute(text("INSERT INTO counter VALUES (0)"))

        async def count(_, tx):
            n = (await tx.execute(text("SELECT n FROM counter"))).scalar_one()
            await asyncio.sleep(0.005)
            await tx.execute(text("UPDATE counter SET n = :n"), {"n": n + 1})

        await sb.enqueue_many(Entry(SETTLE, n, idempotency_key=f"battle-{n}") for n in range(30))
        await sb.consume(SETTLE, count, durable=WORKER, inbox=inbox, concurrency=4, max_deliver=50, backoff=[0.01])
        await eventually(lambda: idle(sb), within=30)
        assert inbox.stats.contended
        async with engine.connect() as connection:
            assert (await connection.execute(text("SELECT n FROM counter"))).scalar_one() == 30
    await engine.dispose()


async def test_another_writer_of_the_file_is_waited_for(sb, tmp_path):
    path = tmp_path / "ledger.db"
    async with Inbox(create_async_engine(f"sqlite+aiosqlite:///{path}", connect_args={"timeout": 0.05})) as inbox:
        await inbox.create()
        await Ledger(inbox).create()
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        await sb.consume(SETTLE, payer(Ledger(inbox)), durable=WORKER, inbox=inbox, max_deliver=1)
        await enqueue(sb, "ann", "battle-1")
        await eventually(lambda: inbox.stats.outages + inbox.stats.contended > 2, within=15)
        await never(lambda: inbox.stats.applied, during=0.3)
        other.execute("ROLLBACK")
        other.close()
        await eventually(lambda: inbox.stats.applied == 1, within=15)
        assert await letters(sb) == []
        await inbox.engine.dispose()


async def test_a_handler_that_locks_itself_out_comes_to_an_end(sb, tmp_path):
    """It writes the same file through a connection of its own: nobody could ever let it in."""
    path = tmp_path / "ledger.db"
    async with Inbox(create_async_engine(f"sqlite+aiosqlite:///{path}", connect_args={"timeout": 0.02})) as inbox:
        await inbox.create()
        ledger = Ledger(inbox)
        await ledger.create()

        async def pay(msg, _):
            async with inbox.engine.begin() as own:
                await ledger.pay(own, msg.json()["winner"])

        await sb.consume(SETTLE, pay, durable=WORKER, inbox=inbox, max_deliver=2, backoff=[0.01])
        await enqueue(sb, "ann", "battle-1")
        (letter,) = await eventually(lambda: letters(sb), within=15)
        assert letter.error_type == "DatabaseContended"
        assert await ledger.paid() == {}
        await inbox.engine.dispose()


async def test_a_full_disk_is_waited_out(sb, tmp_path):
    path = tmp_path / "ledger.db"
    async with Inbox(f"sqlite:///{path}") as inbox:
        await inbox.create()
        ledger = Ledger(inbox)
        await ledger.create()
        async with inbox.engine.connect() as connection:
            pages = (await connection.exec_driver_sql("PRAGMA page_count")).scalar_one()
        limits = [pages, 1_000_000]

        async def pay(msg, tx):
            await tx.exec_driver_sql(f"PRAGMA max_page_count = {limits[0]}")
            await tx.execute(text("INSERT INTO paid VALUES (:player, 1)"), {"player": "x" * 100_000})
            await ledger.pay(tx, msg.json()["winner"])

        await sb.consume(SETTLE, pay, durable=WORKER, inbox=inbox, max_deliver=1)
        await enqueue(sb, "ann", "battle-1")
        await eventually(lambda: inbox.stats.outages > 1, within=15)
        limits.pop(0)
        await eventually(lambda: inbox.stats.applied == 1, within=15)
        assert (await ledger.paid())["ann"] == 1
        assert await letters(sb) == []


@pytest.mark.parametrize("options", [{}, {"batch_size": 5, "batch_timeout": 0.05}], ids=["each", "batch"])
async def test_trouble_of_a_handlers_other_database_is_its_own_failure(sb, inbox, ledger, tmp_path, options):
    """A read-only file somewhere else is no outage of ours, which would be waited for without end."""
    with sqlite3.connect(tmp_path / "other.db") as made:
        made.execute("CREATE TABLE seen (name TEXT)")
    made.close()
    other = create_async_engine(f"sqlite+aiosqlite:///file:{tmp_path / 'other.db'}?mode=ro&uri=true")

    async def settle(taken, tx):
        for message in taken if options else [taken]:
            await ledger.pay(tx, message.json()["winner"])
            if message.json()["winner"] == "eve":
                async with other.begin() as connection:
                    await connection.execute(text("INSERT INTO seen VALUES ('eve')"))

    for winner in ("ann", "eve", "bob"):
        await enqueue(sb, winner, winner)
    await sb.consume(SETTLE, settle, durable=WORKER, inbox=inbox, backoff=[0.05], max_deliver=2, **options)
    (letter,) = await eventually(lambda: letters(sb))
    await eventually(lambda: inbox.stats.applied == 2)
    await other.dispose()
    assert (letter.idempotency_key, letter.error_type, inbox.stats.outages) == ("eve", "OperationalError", 0)
    assert await ledger.paid() == {"ann": 1, "bob": 1}
