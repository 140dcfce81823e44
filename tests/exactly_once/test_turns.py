"""A handler's turn: it ends nobody's transaction, and what it leaves behind does nothing in one."""

import asyncio
import sqlite3
from contextlib import suppress
from itertools import count

import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from broker import InvalidKey
from broker.applying import SomeFailed
from broker.contracts.envelopes import Delivery
from broker.contracts.headers import KEY, Headers
from broker.contracts.options import ConsumeOptions
from broker.exactly_once import Inbox, TransactionEnded, session_on
from broker.messages import StreamMessage

pytestmark = pytest.mark.timeout(60)

sizes = pytest.mark.parametrize("size", [None, 10])
numbers = count(1)


class Worker:
    """Applies messages that are there together, named by what is their key, once for each attempt."""

    def __init__(self, sb, inbox, handler, size):
        self._sb, self._batched = sb, size is not None

        async def each(taken, tx):
            for msg in taken if isinstance(taken, list) else [taken]:
                await handler(msg.idempotency_key, tx)

        self._apply = inbox.applying(each, consumer="w", options=ConsumeOptions(batch_size=size))

    def message(self, name):
        number, headers = next(numbers), Headers([(KEY, name)])
        delivery = Delivery("battle.settle", b"{}", headers, "BATTLES", "w", number, 1, number, 0, None)
        return StreamMessage(delivery, self._sb._codec, self._sb._streams, settler=None)

    async def work(self, *names):
        """Of each that is not applied, why."""
        messages = [self.message(name) for name in names]
        async with asyncio.timeout(20):
            if not self._batched:
                results = await asyncio.gather(*map(self._apply, messages), return_exceptions=True)
                return {name: error for name, error in zip(names, results, strict=True) if error is not None}
            try:
                await self._apply(messages)
            except SomeFailed as failed:
                return {names[messages.index(message)]: error for message, error in failed.errors.items()}
            return {}


@pytest.fixture
def worker(memory_stream_broker, inbox, size):
    return lambda handler: Worker(memory_stream_broker, inbox, handler, size)


async def commit_session(tx):
    async with AsyncSession(bind=tx, join_transaction_mode="control_fully") as session:
        await session.execute(text("SELECT 1"))
        await session.commit()


async def driver_of(tx):
    return (await tx.get_raw_connection()).driver_connection


async def commit_driver(tx):
    await (await driver_of(tx)).commit()


async def run_script(tx):
    await (await driver_of(tx)).executescript("SELECT 1")


async def commit_kept(tx):
    await (await driver_of(tx)).execute("COMMIT")


DOORS = {
    "sync commit": lambda tx: tx.run_sync(lambda connection: connection.commit()),
    "sync rollback": lambda tx: tx.run_sync(lambda connection: connection.rollback()),
    "sync close": lambda tx: tx.run_sync(lambda connection: connection.close()),
    "sync detach": lambda tx: tx.run_sync(lambda connection: connection.detach()),
    "commit of it": lambda tx: tx.get_transaction().commit(),
    "rollback of it": lambda tx: tx.get_transaction().rollback(),
    "invalidate": lambda tx: tx.invalidate(),
    "session": commit_session,
    "comment": lambda tx: tx.exec_driver_sql("/* done */ COMMIT"),
    "line comment": lambda tx: tx.exec_driver_sql("-- done\nCOMMIT"),
    "several": lambda tx: tx.exec_driver_sql("SELECT 1; COMMIT"),
    "text": lambda tx: tx.execute(text("/* all */ ROLLBACK")),
    "sync text": lambda tx: tx.run_sync(lambda connection: connection.exec_driver_sql(";END")),
}
DRIVERS = {"driver": commit_driver, "script": run_script, "kept": commit_kept}
"""SQLite refuses them itself."""


@sizes
async def test_no_door_ends_the_transaction_and_others_are_applied_once(worker, inbox, ledger, kind):
    async def pay(name, tx):
        await ledger.pay(tx, name)
        if name in doors:
            await doors[name](tx)

    doors = DOORS | (DRIVERS if kind == "sqlite" else {})
    async with inbox.engine.connect() as connection:  # SQLite's driver keeps statements, and does not ask about them
        for statement in ("BEGIN", "COMMIT"):
            await connection.exec_driver_sql(statement)
    working = worker(pay)
    for door in doors:
        before, behind = f"before {door}", f"behind {door}"
        failed = await working.work(before, door, behind)
        assert {name: type(error) for name, error in failed.items()} == {door: TransactionEnded}
        assert not await working.work(before, behind)
        paid = await ledger.paid()
        assert [paid.get(name) for name in (before, door, behind)] == [1, None, 1], door


LATE = {
    "statement": lambda tx, _: tx.execute(text("INSERT INTO paid VALUES ('late', 1)")),
    "session": lambda _, session: session.execute(text("INSERT INTO paid VALUES ('late', 1)")),
    "savepoint": lambda tx, _: tx.begin_nested().start(),
    "sync": lambda tx, _: tx.run_sync(
        lambda connection: connection.exec_driver_sql("INSERT INTO paid VALUES ('late', 1)")
    ),
    "driver": lambda tx, _: tx.get_raw_connection(),
}


@sizes
async def test_what_outlives_its_handler_is_refused(worker, ledger):
    """``gather`` leaves the other half running when one fails; somebody else has the transaction by then."""
    errors, late = {}, []

    async def linger(tx, how):
        session = AsyncSession(bind=tx)
        await session.execute(text("SELECT 1"))
        await ready.wait()
        await over.wait()
        try:
            await LATE[how](tx, session)
        except Exception as exc:  # noqa: BLE001 - it is what the test looks at
            errors[how] = exc

    async def pay(name, tx):
        await ledger.pay(tx, name)
        if name == "late" and failed.is_set():
            raise LookupError
        if name == "late":
            late.extend(asyncio.create_task(linger(tx, how)) for how in LATE)
            await ready.wait()
            failed.set()
            raise LookupError
        if late:
            await failed.wait()
            over.set()
            await asyncio.wait(late)

    ready, failed, over = asyncio.Barrier(len(LATE) + 1), asyncio.Event(), asyncio.Event()
    await worker(pay).work("before", "late", "behind")
    over.set()
    await asyncio.wait(late)
    assert {how: type(error) for how, error in errors.items()} == dict.fromkeys(LATE, TransactionEnded)
    assert "before the handler returns" in str(errors["statement"])
    assert await ledger.paid() == {"before": 1, "behind": 1}


@sizes
@pytest.mark.parametrize("whose", ["ours", "theirs"])
async def test_what_was_sent_before_a_handler_failed_is_undone_with_it(
    memory_stream_broker, inbox, ledger, url, size, whose
):
    """A connection does one thing after the other: what waits for its turn there may not come after the rollback."""
    engine = create_async_engine(url) if whose == "theirs" else None
    sent = []

    async def pay(name, tx):
        if name.startswith("hasty"):
            sent.extend(asyncio.create_task(ledger.pay(tx, name)) for _ in range(10))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            raise LookupError
        await ledger.pay(tx, name)

    async with Inbox(engine or url) as theirs:
        working = Worker(memory_stream_broker, theirs, pay, size)
        for n in range(5):
            failed = await working.work(f"hasty {n}", f"ann {n}")
            assert list(failed) == [f"hasty {n}"]
            await asyncio.gather(*sent, return_exceptions=True)
            async with asyncio.timeout(5), inbox.engine.begin() as connection:  # nobody holds a lock
                await ledger.pay(connection, f"bob {n}")
    assert await ledger.paid() == {f"{name} {n}": 1 for n in range(5) for name in ("ann", "bob")}
    if engine is not None:
        await engine.dispose()


@sizes
async def test_a_savepoint_left_open_keeps_nothing_of_a_handler_that_failed(worker, ledger):
    async def pay(name, tx):
        await ledger.pay(tx, name)
        await tx.begin_nested()
        await ledger.pay(tx, name)
        if name == "careless":
            raise LookupError

    working = worker(pay)
    for n in range(2):  # the second time each has a savepoint around it
        assert list(await working.work(f"ann {n}", "careless", f"bob {n}")) == ["careless"]
    assert await ledger.paid() == {f"{name} {n}": 2 for n in range(2) for name in ("ann", "bob")}


@sizes
async def test_the_inboxs_own_savepoint_is_out_of_reach(worker, ledger):
    async def pay(name, tx):
        await ledger.pay(tx, name)
        assert tx.get_nested_transaction() is None
        if name == "rude":
            with suppress(DBAPIError):
                await tx.exec_driver_sql("RELEASE SAVEPOINT gamebroker_turn")
            raise LookupError

    working = worker(pay)
    for n in range(2):
        assert list(await working.work(f"ann {n}", "rude", f"bob {n}")) == ["rude"]
    assert await ledger.paid() == {f"{name} {n}": 1 for n in range(2) for name in ("ann", "bob")}


async def next_statement(tx):
    await tx.execute(text("INSERT INTO paid VALUES ('rude', 1)"))


async def next_savepoint(tx):
    async with tx.begin_nested():
        await next_statement(tx)


async def next_savepoint_of_the_driver(tx):
    driver = await driver_of(tx)
    await driver.execute("SAVEPOINT sa_savepoint_1")
    await driver.execute("INSERT INTO paid VALUES ('rude', 1)")


@sizes
@pytest.mark.parametrize("kind", ["sqlite"])
@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("goes_on", [next_statement, next_savepoint, next_savepoint_of_the_driver])
async def test_what_sqlite_has_rolled_back_is_not_taken_for_whole(worker, inbox, ledger, goes_on):
    """ON CONFLICT ROLLBACK, RAISE(ROLLBACK): the handler swallows the error, and would begin another transaction."""
    async with inbox.engine.begin() as connection:
        await connection.execute(text("CREATE TABLE season (player TEXT PRIMARY KEY ON CONFLICT ROLLBACK)"))
        await connection.execute(text("INSERT INTO season VALUES ('rude')"))

    async def pay(name, tx):
        await next_savepoint(tx) if name == "rude" else await ledger.pay(tx, name)
        if name == "rude":
            with suppress(DBAPIError):
                await tx.execute(text("INSERT INTO season VALUES ('rude')"))
            await goes_on(tx)

    failed = await worker(pay).work("ann", "rude", "bob")
    assert {name: type(error) for name, error in failed.items()} == {"rude": TransactionEnded}
    assert await ledger.paid() == {"ann": 1, "bob": 1}


@pytest_asyncio.fixture
async def entries(inbox):
    """A ledger that is checked at the commit."""
    async with inbox.engine.begin() as connection:
        await connection.execute(text("CREATE TABLE player (name TEXT PRIMARY KEY)"))
        await connection.execute(text("INSERT INTO player VALUES ('ann'), ('bob'), ('cid')"))
        reference = "REFERENCES player (name) DEFERRABLE INITIALLY DEFERRED"
        await connection.execute(text(f"CREATE TABLE entry (name TEXT {reference})"))

    async def entries():
        async with inbox.engine.connect() as connection:
            return sorted((await connection.execute(text("SELECT name FROM entry"))).scalars())

    return entries


async def enter(name, tx):
    await tx.execute(text("INSERT INTO entry VALUES (:name)"), {"name": name})


@sizes
async def test_what_only_the_commit_refuses_costs_nobody_else_anything(worker, entries, inbox, kind):
    """Nobody knows whose it was until each has a transaction of its own."""
    failed = await worker(enter).work("ann", "bob", "nobody", "cid")
    assert {name: type(error).__name__ for name, error in failed.items()} == {"nobody": "IntegrityError"}
    assert await entries() == ["ann", "bob", "cid"]
    if kind == "sqlite":  # which keeps a transaction open whose commit has failed
        other = sqlite3.connect(inbox.engine.url.database, timeout=0)
        other.execute("BEGIN IMMEDIATE")
        other.close()


@sizes
@pytest.mark.parametrize("key", ["nul \0", "x" * 6000, "\xff\xfe", "  "])
async def test_a_key_that_is_none_is_the_failure_of_its_message(worker, ledger, key):
    """Other clients send what they like, PostgreSQL cannot hold all of it, and a batch's marks are one statement."""
    failed = await worker(ledger_of(ledger)).work("ann", key, "bob")
    assert {name: type(error) for name, error in failed.items()} == ({} if key == "\xff\xfe" else {key: InvalidKey})
    assert {name: (await ledger.paid()).get(name) for name in ("ann", "bob")} == {"ann": 1, "bob": 1}


def ledger_of(ledger):
    async def pay(name, tx):
        await ledger.pay(tx, name)

    return pay


@pytest.mark.parametrize("size", [None])
async def test_who_keeps_to_the_rules_has_everything_sqlalchemy_has(worker, ledger):
    async def pay(name, tx):
        async with session_on(tx) as session:
            await session.execute(text("INSERT INTO paid VALUES (:name, 1)"), {"name": name})
        with suppress(LookupError):
            async with tx.begin_nested():
                await ledger.pay(tx, "undone")
                raise LookupError
        await tx.run_sync(lambda connection: connection.exec_driver_sql("SELECT 1").scalar_one())
        async with tx.stream(text("SELECT 1")) as rows:
            assert [row async for row in rows] == [(1,)]
        assert tx.in_transaction()
        assert not tx.in_nested_transaction()
        assert (await tx.get_raw_connection()).driver_connection is not None

    assert not await worker(pay).work("ann", "bob")
    assert await ledger.paid() == {"ann": 1, "bob": 1}
