"""Which thread executes a statement: the event loop's own only what is short, and only while nobody is waited for."""

import asyncio
import threading
import time

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from broker.exactly_once import Inbox
from broker.exactly_once.databases import Database
from broker.exactly_once.short_statements import ShortStatements
from broker.exactly_once.transactions import Transactions
from broker.exactly_once.turns import turn_on

_TOLD = text(
    "SELECT whose_thread(), max(i) FROM "
    "(WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :rows) SELECT i FROM n)"
)
LONG = 300_000
"""Rows; some 30 ms."""


@pytest.fixture
async def database(tmp_path):
    url = f"sqlite+aiosqlite:///{tmp_path / 'ledger.db'}"
    async with Inbox(url) as inbox:
        await inbox.create()
    opened = Database(url)
    yield opened
    await opened.close()


async def told(connection, rows=1):
    driver = (await connection.get_raw_connection()).driver_connection
    await driver.create_function("whose_thread", 0, threading.get_ident)
    found, counted = (await connection.execute(_TOLD, {"rows": rows})).one()
    assert counted == rows
    return found == threading.get_ident()


async def test_what_has_shown_to_be_short_is_executed_at_once(database):
    async with Transactions(database).begin() as tx:
        proving = 1
        while not await told(tx):
            proving += 1
    assert proving > 4, "it was executed here before anything was known of it"


async def test_who_only_reads_may_have_to_wait_and_stays_off_the_loop(database):
    async with Transactions(database).begin() as tx:
        while not await told(tx):
            pass
    async with database.engine.connect() as reading:
        assert not any([await told(reading) for _ in range(40)])


async def test_what_was_long_goes_back_to_the_thread(database):
    async with Transactions(database).begin() as tx:
        while not await told(tx):
            pass
        assert not await told(tx, LONG), "it was not given up when it became long"
        here = [await told(tx) for _ in range(100)]
    assert not any(here)


async def test_many_rows_are_written_and_read_in_the_thread_all_the_same(database):
    count = text(
        "SELECT i FROM "
        "(WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :rows) SELECT i FROM n)"
    )
    insert = text("INSERT INTO gamebroker_relay VALUES (:name, 'me', 0)")
    async with Transactions(database).begin() as tx:
        for number in range(40):
            assert (await tx.execute(count, {"rows": 3})).scalars().all() == [1, 2, 3]
            await tx.execute(insert, [{"name": f"relay-{number}-{n}"} for n in range(2)])
        for rows in (63, 64, 65, 100_000):
            assert (await tx.execute(count, {"rows": rows})).scalars().all() == list(range(1, rows + 1))
        driver = (await tx.get_raw_connection()).driver_connection
        at_work = threading.Event()
        await driver.set_trace_callback(lambda _: at_work.set() if threading.current_thread() in beside else None)
        beside = {driver._thread}
        await tx.execute(insert, [{"name": f"relay-{n}"} for n in range(1_000)])
        assert at_work.is_set(), "a thousand rows were written on the loop's thread"
        await driver.set_trace_callback(None)
    async with Transactions(database).reading() as reading:
        rows = await reading.execute(text("SELECT count(*) FROM gamebroker_relay"))
        assert rows.scalar_one() == 1_080


async def test_a_handler_that_only_executes_gives_the_loop_its_turns(database):
    turns = 0

    async def others():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with Transactions(database).begin() as tx:
        while not await told(tx):
            pass
        beside = asyncio.ensure_future(others())
        began = time.perf_counter()
        for _ in range(1_000):
            await tx.execute(_TOLD, {"rows": 1})
        beside.cancel()
    assert turns > (time.perf_counter() - began) / 0.040  # 2 ms, and what a machine may be kept from


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE gamebroker_relay SET until = 0",
        "DELETE FROM gamebroker_relay",
        "INSERT INTO gamebroker_relay SELECT 'a', 'b', 0",
    ],
)
def test_what_may_change_many_rows_never_proves_itself(statement):
    short = ShortStatements()
    for _ in range(100):
        short.took_in_thread(statement, 0.0)
    assert statement not in short


async def test_the_lock_is_gone_with_its_transaction(database):
    insert = text("INSERT INTO gamebroker_relay VALUES (:name, 'me', 0)")
    async with database.engine.connect() as connection:
        await connection.exec_driver_sql("BEGIN IMMEDIATE")
        for number in range(40):
            await connection.execute(insert, {"name": f"relay-{number}"})
        driver = (await connection.get_raw_connection()).driver_connection
        assert driver.nobody_waits
        with pytest.raises(IntegrityError):
            await connection.execute(text("INSERT OR ROLLBACK INTO gamebroker_relay VALUES ('relay-0', 'me', 0)"))
        await connection.exec_driver_sql("BEGIN")
        assert not driver.nobody_waits, "another process may have it now"


async def test_a_failure_at_once_is_the_statements_own(database):
    wrong = text("INSERT INTO gamebroker_relay VALUES (:name, 'me', 0)")
    transactions = Transactions(database)
    async with transactions.begin() as tx:
        for number in range(40):
            await tx.execute(wrong, {"name": f"relay-{number}"})
        with pytest.raises(Exception, match="UNIQUE constraint failed"):
            await tx.execute(wrong, {"name": "relay-0"})
        await tx.execute(wrong, {"name": "relay-40"})
    async with transactions.reading() as reading:
        rows = await reading.execute(text("SELECT count(*) FROM gamebroker_relay"))
        assert rows.scalar_one() == 41


async def test_the_drivers_own_statement_is_waited_for_though_nobody_awaits_it(database):
    """It calls Python, which the loop would keep from it by waiting for it with Python's lock in hand."""

    def slow(number):
        time.sleep(0.01)
        return number

    rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60) SELECT sum(slow(i)) FROM n"
    async with Transactions(database, lends=True).begin() as owned:
        while not await told(owned):
            pass
        with turn_on(owned) as tx:
            driver = (await tx.get_raw_connection()).driver_connection
            await driver.create_function("slow", 1, slow)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await driver.execute_fetchall(rows)
            thread, _ = (await tx.execute(_TOLD, {"rows": 1})).one()
            assert thread != threading.get_ident(), "it was executed here while the thread was at work"
            while not await told(tx):
                pass


async def test_what_the_driver_was_asked_for_in_the_loops_turn_comes_first(database, monkeypatch):
    monkeypatch.setattr(ShortStatements, "loop_is_due", lambda _: True)
    slow = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000) SELECT max(i) FROM n"
    async with Transactions(database).begin() as tx:
        while not await told(tx):
            pass
        driver = (await tx.get_raw_connection()).driver_connection
        found, _ = await asyncio.gather(tx.execute(_TOLD, {"rows": 1}), driver.execute_fetchall(slow))
        thread, _ = found.one()
    assert thread != threading.get_ident(), "it was executed here while the thread was at work"


def test_only_so_many_statements_are_remembered():
    short = ShortStatements()
    for number in range(2_000):
        for _ in range(20):
            short.took_in_thread(f"SELECT {number}", 0.0)
    assert sum(f"SELECT {number}" in short for number in range(2_000)) == 512
    assert "SELECT 1999" in short
    assert "SELECT 0" not in short


def test_long_statements_never_prove_themselves():
    short = ShortStatements()
    for _ in range(1_000):
        short.took_in_thread("SELECT", 0.01)
    assert "SELECT" not in short
