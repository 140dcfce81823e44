from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import MetaData

from broker.exactly_once import SchemaMissing
from services.audit.journal import AuditJournal
from services.audit.tables import METADATA
from services.audit.worker import AuditWorker
from services.database import opened
from services.events import AUDIT, AUDIT_CONSUMER, AuditRecord

ROOT = Path(__file__).resolve().parents[2]
ONE_LINE = "SELECT source || ' ' || seq || ' ' || lower(hex(hash)) FROM audit_head"


def record(n: int, **changes: object) -> AuditRecord:
    fields = {"record_id": f"r{n}", "at": n, "actor": "ann", "action": "claim", "about": ("player:ann",)}
    return AuditRecord(**(fields | changes))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "audit.db"


@pytest.fixture
async def worker(sb, path):
    async with opened(str(path), METADATA) as (inbox, _):
        running = AuditWorker(sb, AuditJournal(inbox.engine), inbox)
        await running.start()
        yield running
        await running.drain()


async def verify(path, *arguments):
    command = [sys.executable, "-m", "services.audit", "verify", "--database", str(path), *map(str, arguments)]
    done = await asyncio.to_thread(
        subprocess.run, command, cwd=ROOT, capture_output=True, text=True, timeout=15, check=False
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr


@pytest.mark.usefixtures("worker")
async def test_records_are_appended_once_and_what_is_none_becomes_a_dead_letter(sb, path, sql, eventually):
    for n in range(1, 31):
        await sb.enqueue("audit.mail", record(n), idempotency_key=f"r{n}")
        await sb.enqueue("audit.mail", record(n), idempotency_key=f"again {n}")
    bad = {
        "garbage": b"garbage",
        "no outcome": b'{"record_id":"x","at":1,"actor":"a","action":"b","outcome":"maybe"}',
        "other": record(3, actor="eve"),
    }
    for key, body in bad.items():
        await sb.enqueue("audit.mail", body, idempotency_key=key)
    await sb.enqueue("audit.settlement", record(1), idempotency_key="r1")
    await eventually(lambda: sb.stats.dead_lettered == len(bad))
    await eventually(
        lambda: (
            sql(path, "SELECT source, count(*), max(seq) FROM audit_record GROUP BY source")
            == [("mail", 30, 30), ("settlement", 1, 1)]
        )
    )
    assert {letter.idempotency_key async for letter in sb.dead_letters.list()} == set(bad)
    info = await sb.consumers.info(AUDIT.name, AUDIT_CONSUMER.durable)
    assert (info.pending, info.ack_pending) == (0, 0)


@pytest.mark.usefixtures("worker")
async def test_the_command_finds_a_flipped_byte(sb, path, tmp_path, sql, eventually):
    for n in range(1, 11):
        await sb.enqueue("audit.mail", record(n), idempotency_key=f"r{n}")
    await eventually(lambda: sql(path, "SELECT count(*) FROM audit_record") == [(10,)])
    kept = tmp_path / "anchors"
    kept.write_text(f"{sql(path, ONE_LINE)[0][0]}\n")
    assert await verify(path, "--anchors", kept) == (0, kept.read_text())
    await asyncio.to_thread(flip_a_byte, path, b'"record_id":"r7"')
    assert await verify(path) == (2, "broken: mail 7: changed: its hash is another one\n")


async def test_what_an_empty_database_prints_is_an_anchor_like_any_other(tmp_path):
    path, kept = tmp_path / "audit.db", tmp_path / "anchors"
    async with opened(str(path), METADATA):
        pass
    assert await verify(path) == (0, "")
    kept.write_text("\n")
    assert await verify(path, "--anchors", kept) == (0, "")


async def test_a_verification_that_cannot_look_is_no_good_one(tmp_path):
    code, said = await verify(tmp_path / "nothing.db")
    assert code == 1
    assert "there is no file" in said
    assert not (tmp_path / "nothing.db").exists()
    async with opened(str(tmp_path / "other.db"), MetaData()):
        pass
    with pytest.raises(SchemaMissing, match="no table audit_head, audit_record: this is another service's database"):
        async with opened(str(tmp_path / "other.db"), METADATA, create=False):
            pass


def flip_a_byte(path, near):
    """In the file itself, behind the database's back."""
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = bytearray(path.read_bytes())
    at = data.index(near)
    data[at + len(near) - 2] ^= 0x01
    path.write_bytes(bytes(data))
