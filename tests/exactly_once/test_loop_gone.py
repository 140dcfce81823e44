"""A program that ends while its database is at work: nobody waits any more, and no thread complains."""

import asyncio
import threading
from contextlib import suppress

import pytest
from sqlalchemy import text

from broker.exactly_once import Inbox
from broker.exactly_once.one_hop import OneHopConnection

SLOW = text("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000000) SELECT count(*) FROM n")


@pytest.mark.parametrize("opened", [True, False], ids=["a statement", "a connection"])
def test_a_thread_that_is_late_says_nothing(tmp_path, monkeypatch, opened):
    complaints = []
    monkeypatch.setattr(threading, "excepthook", complaints.append)
    before = set(threading.enumerate())

    async def left_at_work():
        inbox = Inbox(f"sqlite+aiosqlite:///{tmp_path / 'ledger.db'}")
        if opened:
            await inbox.create()

        async def read():
            async with inbox.engine.connect() as connection:
                await connection.execute(SLOW)

        reading = asyncio.create_task(read())
        await asyncio.sleep(0.05 if opened else 0)
        await asyncio.sleep(0)
        reading.cancel()

    loop = asyncio.new_event_loop()
    with suppress(asyncio.CancelledError):
        loop.run_until_complete(left_at_work())
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    for thread in set(threading.enumerate()) - before:
        thread.join(20)
        assert not thread.is_alive()
    assert complaints == []


async def test_who_closes_a_connection_that_is_ending_does_not_wait_for_ever(tmp_path):
    """As a pool does after a cancellation: its thread has nothing to say any more."""
    connection = await OneHopConnection(str(tmp_path / "ledger.db"))
    ended = connection.stop()
    async with asyncio.timeout(10):
        with pytest.raises(ValueError, match="Connection closed"):
            await connection.close()
        await ended
