from __future__ import annotations

import asyncio
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from services.database import opened
from services.events import LEADERBOARD_UPDATE, MOST_PLAYERS, AuditRecord, LeaderboardUpdate, PlayerResult
from services.settlement.ledger import ConflictingResult, Ledger
from services.settlement.rewards import MINT, UnpayableResult, rewards, settled
from services.settlement.tables import METADATA


class Books:
    """A ledger and the transactions around it."""

    def __init__(self, outbox, worker="w1"):
        self.outbox = outbox
        self.ledger = Ledger(outbox, worker=worker, clock=lambda: 7_000_000_000)

    async def apply(self, ended, sequence=1):
        async with self.outbox.transaction() as tx:
            return await self.ledger.apply(tx, ended, sequence)

    async def run(self, statement):
        async with self.outbox.engine.begin() as connection:
            await connection.execute(text(statement))

    async def rows(self, query):
        async with self.outbox.engine.connect() as connection:
            return [tuple(row) for row in await connection.execute(text(query))]

    async def everything(self):
        return [
            await self.rows(f"SELECT * FROM {table} ORDER BY 1, 2") for table in ("settlement", "entry")
        ] + await self.rows("SELECT subject, key FROM gamebroker_outbox ORDER BY id")


@pytest.fixture
async def books(database):
    async with opened(database, METADATA) as (_, outbox):
        yield Books(outbox)


async def test_a_battle_is_paid_in_double_entry(books, make_battle):
    assert await books.apply(make_battle(), 7)
    assert await books.rows("SELECT account, currency, amount FROM entry ORDER BY n") == [
        ("player:p1", "coin", 112),
        ("player:p2", "coin", 64),
        ("player:p3", "coin", 40),
        (MINT, "coin", -216),
    ]
    query = "SELECT battle_id, epoch, sequence, worker, settled_at FROM settlement"
    assert await books.rows(query) == [("r1-1-1", 1, 7, "w1", 7.0)]


async def test_the_same_result_again_changes_nothing(books, make_battle):
    assert await books.apply(make_battle(), 7)
    before = await books.everything()
    assert not await books.apply(make_battle(), 9)
    assert await books.everything() == before


async def test_another_result_under_the_same_id_is_refused_and_never_paid(books, make_battle):
    await books.apply(make_battle())
    before = await books.everything()
    for _ in range(2):
        with pytest.raises(ConflictingResult, match="r1-1-1 was paid for another result"):
            await books.apply(make_battle(scores=(999, 1, 0)), 2)
    assert not await books.apply(make_battle(), 3), "the first result's repeats are repeats still"
    assert await books.everything() == before


async def test_what_was_written_stays(books, make_battle):
    await books.apply(make_battle())
    before = await books.everything()
    statements = [
        "UPDATE settlement SET worker = worker",
        "DELETE FROM settlement",
        "UPDATE entry SET amount = amount",
        "DELETE FROM entry",
        "INSERT INTO entry VALUES ('r1-1-1', 0, 'player:p1', 'coin', 5) ON CONFLICT (tx, n) DO UPDATE SET amount = 5",
    ]
    if books.outbox.engine.dialect.name == "sqlite":
        # Once for each of the two ways in which a row can be in another's way.
        statements += [
            "INSERT OR REPLACE INTO entry VALUES ('r1-1-1', 0, 'player:p9', 'coin', 1000000)",
            "INSERT OR REPLACE INTO entry VALUES ('r1-1-1', 9, 'player:p1', 'coin', 1000000)",
        ]
    else:
        statements += ["TRUNCATE settlement, entry"]
    for statement in statements:
        with pytest.raises(DBAPIError, match="append-only"):
            await books.run(statement)
    assert await books.everything() == before


async def test_no_settlement_takes_the_place_of_another(books, make_battle):
    await books.apply(make_battle())
    before = await books.everything()
    row = "settlement VALUES ('r1-1-1', 'other', 'r', 1, 1, 1, 'w', 1.0)"
    statements = [f"INSERT INTO {row} ON CONFLICT (battle_id) DO UPDATE SET payload_hash = 'other'"]
    if books.outbox.engine.dialect.name == "sqlite":
        statements.append(f"INSERT OR REPLACE INTO {row}")
    for statement in statements:
        with suppress(DBAPIError):  # SQLite does nothing and says nothing
            await books.run(statement)
        assert await books.everything() == before


async def test_amounts_are_whole_numbers(books, make_battle):
    await books.apply(make_battle())
    with suppress(DBAPIError):  # PostgreSQL keeps another number, a whole one
        await books.run("INSERT INTO entry VALUES ('r1-1-1', 9, 'player:p9', 'coin', 1.5)")
    assert all(isinstance(amount, int) for (amount,) in await books.rows("SELECT amount FROM entry"))
    for amount, battle in ((0, "r1-1-1"), (1, "no such battle")):
        with pytest.raises(DBAPIError):
            await books.run(f"INSERT INTO entry VALUES ('{battle}', 10, 'player:p9', 'coin', {amount})")


@pytest.mark.parametrize(
    "changes",
    [
        {"rules_version": 99},
        {"results": ()},
        {"results": (PlayerResult(player="p1", place=2, score=0),)},
        {"results": (PlayerResult(player="p1", place=1, score=0), PlayerResult(player="p1", place=2, score=0))},
        {"scores": (2**53,) * 11},
    ],
)
def test_no_rule_pays_it(changes, make_battle):
    with pytest.raises(UnpayableResult, match="r1-1-1: "):
        rewards(make_battle(**changes))


async def test_a_result_no_rule_can_pay_writes_nothing(books, make_battle):
    with pytest.raises(UnpayableResult):
        await books.apply(make_battle(rules_version=99))
    assert await books.everything() == [[], []]


@given(scores=st.lists(st.integers(0, 10**6), min_size=1, max_size=40))
def test_every_payout_adds_up_to_zero_and_pays_everyone_something(scores, make_battle):
    lines = rewards(make_battle(scores=tuple(scores)))
    assert sum(line.amount for line in lines) == 0
    assert all(isinstance(line.amount, int) and line.amount > 0 for line in lines[:-1])
    assert len({line.account for line in lines}) == len(lines) == len(scores) + 1


async def test_a_failure_inside_the_transaction_undoes_all_of_it(books, monkeypatch, make_battle):
    with monkeypatch.context() as patched:
        patched.setattr("services.settlement.ledger.settled", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            await books.apply(make_battle())
    assert await books.everything() == [[], []]
    assert await books.apply(make_battle())


async def test_what_follows_is_in_the_outbox_with_the_payment(books, make_battle):
    await books.apply(make_battle())
    found = await books.rows("SELECT subject, key, body FROM gamebroker_outbox ORDER BY id")
    assert [(subject, key) for subject, key, _ in found] == [
        *((LEADERBOARD_UPDATE, f"r1-1-1:p{n}") for n in (1, 2, 3)),
        ("audit.settlement", "settle:r1-1-1"),
    ]
    points = [msgspec.json.decode(bytes(body), type=LeaderboardUpdate) for _, _, body in found[:3]]
    assert [(each.player, each.points) for each in points] == [("p1", 120), ("p2", 40), ("p3", 0)]
    record = msgspec.json.decode(bytes(found[3][2]), type=AuditRecord)
    assert (record.actor, record.action, record.outcome) == ("room:r1", "settle", "done")
    assert record.about == ("battle:r1-1-1",)
    assert record.at == 7_000_000_000
    assert record.postings == rewards(make_battle())


def test_the_audit_takes_the_record_of_the_largest_battle(make_battle):
    most = 2**53 * 9 // MOST_PLAYERS
    ended = make_battle("b" * 64, scores=(most,) * MOST_PLAYERS, room="r" * 64)
    record = settled(ended, rewards(ended), 1)
    assert msgspec.json.decode(msgspec.json.encode(record), type=AuditRecord).postings == record.postings


async def test_workers_racing_on_one_new_database_settle_each_battle_once(database, make_battle):
    battles = [make_battle(f"b-{n}") for n in range(10)]

    async def work(name):
        async with opened(database, METADATA) as (_, outbox):
            books = Books(outbox, name)
            return [await books.apply(each) for each in battles]

    outcomes = await asyncio.gather(*(work(f"w{n}") for n in range(4)))
    assert [sum(paid) for paid in zip(*outcomes, strict=True)] == [1] * 10
    async with opened(database, METADATA) as (_, outbox):
        books = Books(outbox)
        assert await books.rows("SELECT count(*), sum(amount) FROM entry") == [(40, 0)]
        assert await outbox.waiting() == 40
