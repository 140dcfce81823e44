from __future__ import annotations

import asyncio
import hashlib
import json

import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.exc import DBAPIError

from services.audit.chain import BrokenChain, Head
from services.audit.journal import AuditJournal, RecordConflict, Told
from services.audit.tables import METADATA, RECORD
from services.database import opened

TRIGGERS = ("audit_record_no_update", "audit_record_no_delete", "audit_record_no_change", "audit_record_no_gap")


class Desk:
    """A journal and the transactions around it."""

    def __init__(self, outbox):
        self.outbox = outbox
        self.journal = AuditJournal(outbox.engine, lambda: 7)

    async def append(self, *numbers, source="mail"):
        async with self.outbox.transaction() as tx:
            await self.journal.append(tx, source, [Told(f"r{n}", b'{"n":%d}' % n, n) for n in numbers])

    async def links(self, source="mail"):
        return [link async for link in self.journal.read(source)]

    async def run(self, statement):
        async with self.outbox.engine.begin() as connection:
            await connection.execute(text(statement))

    async def tamper(self, *statements):
        """As somebody who may do everything in the database."""
        async with self.outbox.engine.begin() as connection:
            where = "" if connection.dialect.name == "sqlite" else " ON audit_record"
            for trigger in TRIGGERS:
                await connection.execute(text(f"DROP TRIGGER IF EXISTS {trigger}{where}"))
            for statement in statements:
                await connection.execute(text(statement))


@pytest.fixture
async def desk(database):
    async with opened(database, METADATA) as (_, outbox):
        yield Desk(outbox)


async def test_a_chain_is_what_its_description_says(desk):
    await desk.append(1, 2)
    previous = bytes(32)
    for link, n in zip(await desk.links(), (1, 2), strict=True):
        told = json.dumps(["mail", n, f"r{n}", 7, n], separators=(",", ":")).encode()
        body = b'{"n":%d}' % n
        previous = hashlib.sha256(b"gamebroker-audit-1\n" + previous + told + b"\n" + body).digest()
        assert (link.seq, link.hash, link.body) == (n, previous, body)
    assert await desk.journal.verify() == [Head("mail", 2, previous)]


async def test_appenders_at_once_leave_no_gap_and_each_record_once(desk):
    await asyncio.gather(*(desk.append(n, n + 1) for n in range(12)), desk.append(1, source="settlement"))
    links = await desk.links()
    assert [link.seq for link in links] == list(range(1, 14))
    assert {link.record_id for link in links} == {f"r{n}" for n in range(13)}
    assert [(head.source, head.seq) for head in await desk.journal.verify()] == [("mail", 13), ("settlement", 1)]


async def test_another_record_under_a_used_id_is_refused(desk):
    await desk.append(1)
    with pytest.raises(RecordConflict, match="another record r1"):
        async with desk.outbox.transaction() as tx:
            await desk.journal.append(tx, "mail", [Told("r1", b"{}", 2)])
    assert len(await desk.links()) == 1


@pytest.mark.parametrize(
    "statement",
    ["UPDATE audit_record SET recorded_at = 8 WHERE seq = 2", "DELETE FROM audit_record WHERE seq = 3"],
)
async def test_the_database_refuses_to_change_and_to_remove(desk, statement):
    await desk.append(1, 2, 3)
    with pytest.raises(DBAPIError, match="append-only"):
        await desk.run(statement)
    assert (await desk.journal.verify())[0].seq == 3


@pytest.mark.parametrize("seq", [1, 2, 4])
async def test_the_database_refuses_a_gap_and_a_second_record_of_a_number(desk, seq):
    await desk.append(1, 2)
    async with desk.outbox.engine.connect() as connection:
        row = dict((await connection.execute(select(RECORD).where(RECORD.c.seq == 2))).mappings().one())
    with pytest.raises(DBAPIError, match="no gaps"):
        async with desk.outbox.engine.begin() as connection:
            await connection.execute(insert(RECORD).values({**row, "seq": seq, "record_id": "new"}))


async def test_the_first_record_that_was_tampered_with_is_named(desk):
    await desk.append(1, 2, 3, 4)
    [anchor] = await desk.journal.verify()
    four = (await desk.links())[3].hash
    before = "UPDATE audit_record SET body = (SELECT body FROM audit_record WHERE seq = 1) WHERE seq = 3"
    await desk.tamper(before)
    await broken(desk, "mail 3: changed")
    await desk.tamper("UPDATE audit_head SET seq = 2, hash = (SELECT hash FROM audit_record WHERE seq = 2)")
    await broken(desk, "mail 3: changed")
    await desk.tamper("DELETE FROM audit_record WHERE seq = 3")
    await broken(desk, "mail 3: missing: the next one is 4")
    await desk.tamper("DELETE FROM audit_record WHERE seq = 4")
    assert (await desk.journal.verify())[0].seq == 2, "a chain that was cut with its head is one, without an anchor"
    await broken(desk, "mail 3: missing: the chain went to 4", anchor)
    await desk.append(30, 40)
    await broken(desk, "mail 4: written anew", anchor)
    assert (await desk.links())[3].hash != four


async def test_a_head_that_was_set_back_or_removed_shows(desk):
    await desk.append(1, 2, 3)
    await desk.tamper("UPDATE audit_head SET seq = 1, hash = (SELECT hash FROM audit_record WHERE seq = 1)")
    await broken(desk, "mail 2: its chain's head was set back to 1")
    await desk.tamper("DELETE FROM audit_head")
    await broken(desk, "mail 1: its chain's head was set back to 0")


async def test_a_chain_that_is_gone_shows_by_its_anchor(desk):
    await desk.append(1)
    anchors = await desk.journal.verify()
    await desk.tamper("DELETE FROM audit_record", "DELETE FROM audit_head")
    assert await desk.journal.verify() == []
    await broken(desk, "mail 1: missing", *anchors)


async def broken(desk, told, *anchors):
    with pytest.raises(BrokenChain) as found:
        await desk.journal.verify(anchors)
    assert str(found.value).startswith(told)
