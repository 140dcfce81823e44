"""A journal file that is damaged, or something else: it stops nobody, nothing of it is thrown away, and it is told."""

import asyncio
import sqlite3
from contextlib import closing

import pytest

from broker import StreamBroker, StreamOptions
from broker.exactly_once import DatabaseUnavailable
from broker.testing.waiting import eventually
from tests.exactly_once.killed_sender import Ended

BATTLES = StreamOptions("BATTLES", ["battle.>"])


async def test_a_damaged_file_of_somebody_else_stops_nobody(memory_stream_broker, tmp_path, caplog):
    """What a dead process left cannot be read: it is set aside and told, and a new one is begun."""
    caplog.set_level("WARNING", "broker.exactly_once")
    await memory_stream_broker.declare(BATTLES)
    for name, contents in (("0.db", b"no database at all" * 1000), ("0.db-wal", b"w"), ("1.db", b"nor this" * 1000)):
        (tmp_path / name).write_bytes(contents)
    (tmp_path / "0.db.damaged").write_bytes(b"of an earlier time")
    await memory_stream_broker.keep_journal(tmp_path)
    assert (await memory_stream_broker.send(Ended(7, "ann"))).sequence == 1
    await eventually((tmp_path / "1.db.damaged").exists)
    assert (tmp_path / "0.db.damaged").read_bytes() == b"of an earlier time"
    assert (tmp_path / "0.db.damaged.1").read_bytes() == b"no database at all" * 1000
    told = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(told) == 2
    assert all(".recover" in each for each in told)


async def test_one_that_is_damaged_under_way_is_set_aside_at_the_end(tmp_path):
    async with StreamBroker.connect("memory://") as sb:
        await sb.declare(BATTLES)
        await sb.keep_journal(tmp_path)
        await sb.send(Ended(1, "ann"))
        await asyncio.to_thread(damage, tmp_path / "0.db")
        with pytest.raises(DatabaseUnavailable):
            await sb.send(Ended(2, "ann"))
        assert not (tmp_path / "0.db.damaged").exists()
    assert (tmp_path / "0.db.damaged").exists()


def damage(path):
    with closing(sqlite3.connect(path)) as file:
        file.execute("PRAGMA user_version = 7")  # nobody trusts what they have read before
        file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        [(page,)] = file.execute("PRAGMA page_size")
    with path.open("r+b") as file:
        file.seek(page)
        file.write(b"\xa5" * (path.stat().st_size - page))


async def test_a_file_that_is_no_journal_is_a_typed_error_and_let_go(memory_stream_broker, tmp_path):
    with closing(sqlite3.connect(tmp_path / "0.db")) as file:
        file.execute("CREATE TABLE gamebroker_relay (something TEXT)")
        file.execute("CREATE TABLE gamebroker_outbox (something TEXT)")
        file.commit()
    for _ in range(2):
        with pytest.raises(DatabaseUnavailable, match=r"0\.db"):
            await memory_stream_broker.keep_journal(tmp_path)
