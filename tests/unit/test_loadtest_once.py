"""The exactly-once benchmark end to end on a real server, in the smallest size, and what it makes of figures."""

import asyncio

import pytest
from sqlalchemy import text

from broker import StreamBroker
from broker.exactly_once import Inbox
from broker.server import NatsServer
from loadtest import once as command
from loadtest.once import SQLITE, Case, Work, filled, marked, prepared, run, verdicts


def rates(*, each=1500.0, lists=6000.0, full=4500.0):
    return {
        Case(SQLITE, 1): [each * noise for noise in (0.9, 1.0, 1.1)],
        Case(SQLITE, 100): [lists] * 3,
        Case(SQLITE, 100, full=True): [full] * 3,
    }


@pytest.mark.parametrize(
    ("given", "met"),
    [
        ({}, [True, True, True]),
        ({"each": 1499.0}, [False, True, True]),
        ({"lists": 5999.0}, [True, False, True]),
        ({"full": 4499.0}, [True, True, False]),
    ],
)
def test_every_bar_is_held(given, met):
    assert [each.met for each in verdicts(rates(**given))] == met


@pytest.mark.nats
@pytest.mark.timeout(180)
def test_the_command_in_tiny(tmp_path, capsys):
    page = tmp_path / "kept" / "once.md"
    chosen = ["--settlements", "40", "--rounds", "2", "--batches", "1", "100", "--databases", SQLITE]
    chosen += ["--rows", "1000", "--report", str(page)]
    code = command.main(chosen)
    written, told = page.read_text(), capsys.readouterr()
    assert told.out.strip() == written.strip()
    # So few say nothing about speed; what they came to must be said all the same.
    assert code == int("**MISSED: " in written) == int("**every bar met**" not in written)
    assert "nats-server 2." in written
    assert len([line for line in written.splitlines() if line.startswith(f"| {SQLITE}, ")]) == 5
    assert len([line for line in told.err.splitlines() if line.startswith("round ")]) == 6


@pytest.mark.nats
@pytest.mark.timeout(120)
async def test_a_ledger_that_is_not_whole_is_no_figure(tmp_path, capfd):
    database = f"sqlite+aiosqlite:///{tmp_path / 'ledger.db'}"
    await prepared(database)
    await marked(database, 10)
    async with Inbox(database) as inbox, inbox.engine.begin() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM gamebroker_inbox"))).scalar_one() == 10
        cheat = "AFTER INSERT ON postings WHEN new.coins < 0 BEGIN DELETE FROM postings WHERE rowid = new.rowid; END"
        await connection.exec_driver_sql(f"CREATE TRIGGER cheat {cheat}")
    async with NatsServer(sync_interval=None) as server, StreamBroker.connect(server.url) as sb:
        await filled(sb, 1, 3)
        with pytest.raises(RuntimeError, match="failed"):
            await asyncio.wait_for(run(Work(url=server.url, database=database, settlements=3, batch=1)), 100)
    assert "not whole: 3 postings" in capfd.readouterr().err


@pytest.mark.parametrize("wrong", [["--rounds", "0"], ["--batches", "0"], ["--rows", "-1"]], ids=str)
def test_what_cannot_be_measured_is_refused(wrong, capsys):
    with pytest.raises(SystemExit):
        command.main(wrong)
    assert "must be at least" in capsys.readouterr().err
