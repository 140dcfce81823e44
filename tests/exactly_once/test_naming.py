"""Keys are looked up, not searched for: no statement may cost more with every message that was ever applied."""

import pytest
from sqlalchemy import event, text

from broker.exactly_once import Outbox
from broker.exactly_once.marks import Mark
from broker.exactly_once.pruning import Pruning
from broker.exactly_once.recording import Recording
from broker.exactly_once.transactions import Transactions
from tests.exactly_once.test_inbox import SETTLE, WORKER

NAMES = [(SETTLE, f"battle-{number}") for number in range(100)]
MARKS = [Mark(*name, b"x" * 32, "BATTLES", 1) for name in NAMES]
ROWS = 30_000
SERIES = {
    "sqlite": "WITH RECURSIVE s(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM s WHERE n < :rows)",
    "postgresql": "WITH s AS (SELECT generate_series(0, :rows) AS n)",
}
MARKED = (
    "INSERT INTO gamebroker_inbox (consumer, subject, key, digest, stream, sequence, at) {series} "
    f"SELECT '{WORKER}', '{SETTLE}', 'battle-' || n, :bytes, 'BATTLES', n, n FROM s"
)
SENT = (
    "INSERT INTO gamebroker_outbox (subject, key, body, created_at, due_at, attempts, sent_at, repeats) {series} "
    f"SELECT '{SETTLE}', 'battle-' || n, :bytes, 0, 0, 0, 1, 0 FROM s"
)


async def look(inbox, _):
    assert len(await inbox.applied(WORKER, NAMES)) == len(NAMES)


async def forget(inbox, transactions):
    async with transactions.begin() as tx:
        await Recording(transactions.kind).forget(tx, WORKER, MARKS)
    assert await inbox.applied(WORKER, NAMES) == set()


async def prune(inbox, transactions):
    await Pruning(transactions, keep=0, stream="BATTLES", consumer=WORKER)._remove(set(NAMES))
    assert await inbox.applied(WORKER, NAMES) == set()


async def ask_the_outbox(inbox, _):
    assert await Outbox(inbox.engine).unsettled(NAMES) == set(NAMES)


@pytest.mark.parametrize("work", [look, forget, prune, ask_the_outbox])
async def test_names_are_looked_up(inbox, kind, work):
    async with inbox.engine.begin() as connection:
        for filling in (MARKED, SENT):
            await connection.execute(text(filling.format(series=SERIES[kind])), {"rows": ROWS, "bytes": b"x"})
        if kind == "postgresql":
            await connection.execute(text("ANALYZE gamebroker_inbox, gamebroker_outbox"))
    asked = []
    event.listen(inbox.engine.sync_engine, "before_cursor_execute", lambda *told: asked.append(told[2:4]))
    await work(inbox, Transactions(inbox._database))
    statement, values = next(each for each in asked if "IN (SELECT" in each[0])
    explain = "EXPLAIN QUERY PLAN" if kind == "sqlite" else "EXPLAIN"
    async with inbox.engine.connect() as connection:
        plan = [str(row[-1]) for row in await connection.exec_driver_sql(f"{explain} {statement}", values)]
    if kind == "sqlite":
        [found] = [step for step in plan if "gamebroker" in step or "outbox" in step]
        assert found.startswith("SEARCH")
    else:
        [found] = [step for step in plan if "Index Cond" in step]
        assert not any("Seq Scan" in step for step in plan)
    assert "subject" in found
    assert "key" in found
