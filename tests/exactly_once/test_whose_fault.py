"""A handler's own statement whose code sounds like the database's trouble costs its own message, and nobody else's."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import InternalError, OperationalError

from broker.testing.waiting import eventually
from tests.exactly_once.test_inbox import SETTLE, WORKER, enqueue, letters

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def sb(memory_stream_broker):
    return memory_stream_broker


async def until_eve_is_buried(battles, inbox, ledger, size, before_paying):
    """Ann, eve and bob are to be paid, in batches or each; eve's letter."""

    async def pay(taken, tx):
        for msg in taken if size else [taken]:
            winner = msg.json()["winner"]
            await before_paying(winner, tx)
            await ledger.pay(tx, winner)

    for winner in ("ann", "eve", "bob"):
        await enqueue(battles, winner, winner)
    options = {"batch_size": size, "backoff": (0.05,), "max_deliver": 1}
    await battles.consume(SETTLE, pay, durable=WORKER, inbox=inbox, **options)
    await eventually(lambda: letters(battles), within=30)
    await eventually(lambda: inbox.stats.applied == 2, within=30)
    (letter,) = await letters(battles)
    assert letter.idempotency_key == "eve"
    assert await ledger.paid() == {"ann": 1, "bob": 1}
    return letter


@pytest.mark.parametrize(
    ("kind", "poison", "size"),
    [
        pytest.param("sqlite", "ATTACH DATABASE '/nowhere/at/all.db' AS archive", None, id="sqlite-each-cannot open"),
        pytest.param("sqlite", "ATTACH DATABASE '/nowhere/at/all.db' AS archive", 10, id="sqlite-batch-cannot open"),
        pytest.param("postgresql", "SELECT pg_read_file('/nowhere/at/all')", 10, id="postgresql-batch-no such file"),
        pytest.param("postgresql", "SET TRANSACTION READ ONLY", None, id="postgresql-each-read only"),
        pytest.param("postgresql", "SET TRANSACTION READ ONLY", 10, id="postgresql-batch-read only"),
    ],
)
async def test_trouble_that_one_statement_alone_has_is_its_handlers_failure(battles, inbox, ledger, poison, size):
    """While the database is well. Otherwise it would be waited for without end, and whoever is beside it as well."""

    async def poisonous(winner, tx):
        if winner == "eve":
            await tx.execute(text(poison))

    letter = await until_eve_is_buried(battles, inbox, ledger, size, poisonous)
    assert letter.error_type in {OperationalError.__name__, InternalError.__name__}
    assert inbox.stats.outages == 0


@pytest.mark.parametrize("kind", ["postgresql"])
@pytest.mark.parametrize("size", [None, 10])
async def test_a_row_that_somebody_holds_costs_only_its_own_message(battles, inbox, ledger, size):
    """Support has eve's account open in a transaction for a while."""
    async with inbox.engine.begin() as tx:
        await tx.execute(text("CREATE TABLE account (player TEXT PRIMARY KEY)"))
        await tx.execute(text("INSERT INTO account VALUES ('ann'), ('bob'), ('eve')"))

    async def lock(winner, tx):
        await tx.execute(text("SELECT 1 FROM account WHERE player = :p FOR UPDATE NOWAIT"), {"p": winner})

    async with inbox.engine.connect() as holder:
        await holder.execute(text("SELECT 1 FROM account WHERE player = 'eve' FOR UPDATE"))
        letter = await until_eve_is_buried(battles, inbox, ledger, size, lock)
    assert letter.error_type == "DatabaseContended"


@pytest.mark.parametrize("kind", ["sqlite"])
@pytest.mark.parametrize("size", [None, 10])
async def test_a_handler_that_locks_itself_out_costs_only_its_own_message(battles, inbox, ledger, size):
    async def write_beside(winner, _):
        if winner == "eve":
            async with inbox.engine.connect() as other:
                await other.exec_driver_sql("PRAGMA busy_timeout = 10")
                await other.exec_driver_sql("INSERT INTO paid VALUES ('side', 1)")

    letter = await until_eve_is_buried(battles, inbox, ledger, size, write_beside)
    assert letter.error_type == "DatabaseContended"
