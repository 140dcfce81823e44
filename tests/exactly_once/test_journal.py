"""The journal: what ``send`` took at QoS 2 reaches its stream, whatever happens to server and sender meanwhile."""

import asyncio
import signal
import sqlite3
import sys
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from broker import BrokerClosed, InvalidOption, QoS, QoSViolation, StreamBroker, StreamOptions, contract
from broker.connecting import address_of
from broker.contracts.event_contracts import contract_of
from broker.contracts.options import ConnectOptions
from broker.exactly_once import DatabaseUnavailable, Journal, JournalFull, KeyConflict, Outbox
from broker.exactly_once.shelf import Shelf
from broker.exactly_once.transactions import Transactions
from broker.quality.journaling import default_directory
from broker.server import NatsServer
from broker.testing.waiting import eventually
from tests.exactly_once.killed_sender import SUBJECT, Ended

TOP = Path(__file__).resolve().parents[2]
BATTLES = StreamOptions("BATTLES", ["battle.>"])


@contract(subject="battle.turn", qos=QoS.EXACTLY_ONCE, key="name", ordering_key="room")
@dataclass
class Turn:
    name: str
    room: str


@contract(subject="battle.seen", qos=QoS.AT_MOST_ONCE)
@dataclass
class Seen:
    name: str


@pytest.fixture
def directory(tmp_path, monkeypatch):
    monkeypatch.setenv("GAMEBROKER_JOURNAL", str(tmp_path / "journals"))
    return tmp_path / "journals"


@pytest_asyncio.fixture
async def own_server(tmp_path):
    """One that a test may freeze and end."""
    server = NatsServer(store_dir=tmp_path / "nats")
    await server.start()
    yield server
    with suppress(Exception):
        await server.thaw()
    await server.stop()


async def stored(sb, subject=SUBJECT):
    async with sb.read(subject, until="end") as messages:
        return [message.decode(Ended).battle_id async for message in messages]


@pytest.mark.nats
async def test_it_is_there_without_anybody_asking(stream_broker, directory):
    await stream_broker.declare(BATTLES)
    receipts = [await stream_broker.send(Ended(7, "ann")) for _ in range(2)]
    assert [(each.sequence, each.duplicate) for each in receipts] == [(1, False), (1, True)]
    assert len(list(directory.glob("*/0.db"))) == 1
    stats = stream_broker.contract_stats(Ended)
    assert (stats.sent, stats.journaled, stats.duplicates) == (2, 0, 1)
    with pytest.raises(KeyConflict):
        await stream_broker.send(Ended(7, "bob"))
    with pytest.raises(InvalidOption, match="already"):
        await stream_broker.keep_journal(None)
    assert await stored(stream_broker) == [7]


async def test_a_twin_in_memory_has_none_unless_it_is_asked_for(memory_stream_broker, directory, tmp_path):
    await memory_stream_broker.declare(BATTLES)
    await memory_stream_broker.send(Ended(7, "ann"))
    assert not directory.exists()
    await memory_stream_broker.keep_journal(tmp_path / "own")
    receipts = await asyncio.gather(*(memory_stream_broker.send(Ended(number, "ann")) for number in range(100, 300)))
    assert {each.sequence for each in receipts} == set(range(2, 202))
    assert (tmp_path / "own" / "0.db").exists()


async def test_those_of_one_ordering_key_go_in_the_order_sent(memory_stream_broker, tmp_path):
    await memory_stream_broker.declare(StreamOptions("BATTLES", ["battle.>"], lanes=4))
    await memory_stream_broker.keep_journal(tmp_path)
    names = [f"{number:03}" for number in range(90)]
    await asyncio.gather(*(memory_stream_broker.send(Turn(name, f"r{int(name) % 3}")) for name in names))
    async with memory_stream_broker.read("battle.turn", until="end") as messages:
        seen = [message.json()["name"] async for message in messages]
    for room in range(3):
        assert [name for name in seen if int(name) % 3 == room] == [name for name in names if int(name) % 3 == room]


async def test_with_a_database_of_ones_own_events_go_into_its_outbox(memory_stream_broker, tmp_path):
    await memory_stream_broker.declare(StreamOptions("BATTLES", ["battle.>"], lanes=4))
    async with Outbox(f"sqlite+aiosqlite:///{tmp_path / 'game.db'}") as outbox:
        await outbox.create()
        async with outbox.relay(memory_stream_broker):
            async with outbox.engine.begin() as tx:
                assert await outbox.send(tx, Turn("one", "r1")) == "one"
                with pytest.raises(InvalidOption, match="at most once"):
                    await outbox.send(tx, Seen("ann"))
                with pytest.raises(InvalidOption, match="no contract"):
                    await outbox.send(tx, {"name": "two"})

            async def sent():
                return not await outbox.waiting()

            await eventually(sent)
    found = await memory_stream_broker.streams.get_last("BATTLES", "battle.turn")
    assert (found.decode(Turn), found.idempotency_key, found.ordering_key) == (Turn("one", "r1"), "one", "r1")


async def test_with_none_it_is_sent_at_once(memory_stream_broker, directory):
    await memory_stream_broker.declare(BATTLES)
    await memory_stream_broker.keep_journal(None)
    assert (await memory_stream_broker.send(Ended(7, "ann"))).sequence == 1
    assert not directory.exists()


@pytest.mark.nats
async def test_a_directory_that_cannot_be_used_is_refused_at_the_start(stream_broker, tmp_path, monkeypatch):
    await stream_broker.declare(BATTLES)
    (tmp_path / "file").touch()
    monkeypatch.setenv("GAMEBROKER_JOURNAL", str(tmp_path / "file"))
    for start in (stream_broker.check_contracts(Ended), stream_broker.send(Ended(7, "ann"))):
        with pytest.raises(QoSViolation, match="keep_journal") as caught:
            await start
        assert caught.value.subject == SUBJECT
    with pytest.raises(QoSViolation, match="cannot be used"):
        await stream_broker.keep_journal(tmp_path / "file")


async def test_without_the_extra_it_is_refused_at_the_start(memory_stream_broker, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "broker.exactly_once", None)
    with pytest.raises(QoSViolation, match=r"gamebroker\[sql\]"):
        await memory_stream_broker.keep_journal(tmp_path)


async def test_more_than_may_wait_is_refused(memory_stream_broker, tmp_path):
    await memory_stream_broker.declare(StreamOptions("OTHER", ["other.>"]))  # nobody captures it: everything waits
    journal = await Journal(tmp_path, most=3).open(memory_stream_broker)
    try:
        entries = [memory_stream_broker._sender._entry(contract_of(Ended), Ended(number, "ann")) for number in range(4)]
        for entry in entries[:3]:
            assert await journal.stored(await journal.write(entry), 0) is None
        with pytest.raises(JournalFull, match="3 events wait"):
            await journal.write(entries[3])
    finally:
        await journal.drain(0)
    with pytest.raises(BrokerClosed):
        await journal.write(entries[3])


async def test_a_file_that_breaks_fails_the_send_and_no_later_one_hangs(memory_stream_broker, tmp_path):
    await memory_stream_broker.declare(BATTLES)
    await memory_stream_broker.keep_journal(tmp_path)
    await memory_stream_broker.send(Ended(1, "ann"))
    outbox = (await memory_stream_broker._journaling.journal(contract_of(Ended)))._outbox
    async with outbox.engine.begin() as connection:
        await connection.exec_driver_sql("ALTER TABLE gamebroker_outbox RENAME TO elsewhere")
    for number in (2, 3):
        with pytest.raises(DatabaseUnavailable):
            await memory_stream_broker.send(Ended(number, "ann"))
    async with outbox.engine.begin() as connection:
        await connection.exec_driver_sql("ALTER TABLE elsewhere RENAME TO gamebroker_outbox")
    await memory_stream_broker.send(Ended(2, "ann"), timeout=0)
    await eventually(lambda: stored_at_least(memory_stream_broker, 2))


async def stored_at_least(sb, number):
    return len(await stored(sb)) >= number


async def test_what_is_sent_goes_after_a_while(memory_stream_broker, tmp_path):
    await memory_stream_broker.declare(BATTLES)
    journal = await Journal(tmp_path, keep=0).open(memory_stream_broker)
    entry = memory_stream_broker._sender._entry(contract_of(Ended), Ended(1, "ann"))
    await journal.stored(await journal.write(entry), 10)
    await journal.drain(0)
    again = await Journal(tmp_path, keep=0).open(memory_stream_broker)
    await eventually(lambda: again._outbox.stats.pruned == 1)
    await again.drain(0)


async def test_a_mark_that_a_power_cut_undoes_is_a_repeat_that_the_stream_drops(memory_stream_broker, tmp_path):
    """Events are synced to disk, marks are not: they may be lost, they may not cost an event or double it."""
    await memory_stream_broker.declare(BATTLES)
    journal = await Journal(tmp_path).open(memory_stream_broker)
    synced = []
    for transactions in (journal._outbox._transactions, Transactions(journal._outbox._relayed)):
        async with transactions.reading() as connection:
            synced.append((await connection.exec_driver_sql("PRAGMA synchronous")).scalar_one())
    assert synced == [2, 1]
    entry = memory_stream_broker._sender._entry(contract_of(Ended), Ended(1, "ann"))
    await journal.stored(await journal.write(entry), 10)
    await journal.drain(0)
    with closing(sqlite3.connect(tmp_path / "0.db")) as file:
        file.execute("UPDATE gamebroker_outbox SET sent_at = NULL, stream = NULL, sequence = NULL")
        file.commit()
    again = await Journal(tmp_path).open(memory_stream_broker)
    assert again.waiting == 1
    await eventually(lambda: again.waiting == 0)
    assert again._outbox.stats.duplicates == 1
    await again.drain(0)
    assert await stored(memory_stream_broker) == [1]


def test_each_has_a_file_of_its_own_and_takes_what_is_free(tmp_path):
    shelf = Shelf(tmp_path)
    first, second = shelf.take(), shelf.take()
    for book in (first, second):
        book.path.touch()
    assert [first.path.name, second.path.name] == ["0.db", "1.db"]
    assert list(shelf.left()) == []
    first.put_back()
    assert shelf.take().path.name == "0.db"
    second.put_back()
    assert [book.path.name for book in shelf.left()] == ["1.db"]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("nats://a:1,nats://b:2", "nats://b:2,nats://a:1", True),
        ("nats://ann:secret@a:1", "tls://ann:changed@a:1/", True),
        ("nats://ann:secret@a:1", "nats://bob:secret@a:1", False),
        ("nats://a:1", "nats://a:2", False),
        ("nats://secret@a:1", "nats://changed@a:1", True),
    ],
)
def test_each_server_has_a_directory_of_its_own(one, other, same, monkeypatch):
    monkeypatch.setenv("GAMEBROKER_JOURNAL", "/journals")
    places = [default_directory(address_of(ConnectOptions(url=url))) for url in (one, other)]
    assert (places[0] == places[1]) is same
    assert "secret" not in address_of(ConnectOptions(url=one))
    assert default_directory(address_of(ConnectOptions(url="memory://x"))) is None


@pytest.mark.nats
@pytest.mark.usefixtures("directory")
async def test_what_waits_under_another_name_of_the_server_is_told(stream_broker, nats_server, caplog):
    """A URL list with one server more is another directory: nobody looks into the old one, and that is said."""
    caplog.set_level("WARNING", "broker.exactly_once")
    await stream_broker.declare(BATTLES)
    old = default_directory(address_of(ConnectOptions(url=nats_server.url)))
    old.mkdir(parents=True)
    for number in range(2):
        async with Outbox(f"sqlite+aiosqlite:///{old / f'{number}.db'}") as left:
            await left.create()
            async with left.engine.begin() as tx:
                await left.send(tx, Ended(number, "ann"))
    renamed = nats_server.url.replace("127.0.0.1", "localhost")
    held = Shelf(old).take()
    async with StreamBroker.connect(renamed) as sb:
        await sb.send(Ended(7, "ann"))
    assert not told_of(caplog), "somebody is at work there"
    held.put_back()
    async with StreamBroker.connect(renamed) as sb:
        await sb.send(Ended(8, "ann"))
    [told] = told_of(caplog)
    assert f"2 events wait in the journal {old}" in told
    async with StreamBroker.connect(renamed) as sb:
        await sb.keep_journal(old)
        await eventually(lambda: stored_at_least(sb, 4))


def told_of(caplog):
    return [text for record in caplog.records if "nobody sends them" in (text := record.getMessage())]


@asynccontextmanager
async def sender(*words):
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.exactly_once.killed_sender",
        *map(str, words),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=TOP,
    )
    try:
        assert await asyncio.wait_for(process.stdout.readline(), 30) == b"ready\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.nats
@pytest.mark.fault
@pytest.mark.timeout(120)
async def test_a_killed_sender_loses_nothing_that_send_returned_for(own_server, tmp_path):
    """The server frozen, two senders write on and are killed; one is started anew and sees to what both left."""
    async with StreamBroker.connect(own_server.url) as sb:
        await sb.declare(BATTLES)
    journal = tmp_path / "journal"
    async with sender(own_server.url, journal, 0, 40) as one, sender(own_server.url, journal, 40, 50) as two:
        await own_server.freeze()
        for process, last in ((one, 39), (two, 49)):
            process.stdin.write(b"go\n")
            while (line := await asyncio.wait_for(process.stdout.readline(), 30)) != b"journaled %d\n" % last:
                assert line.startswith(b"journaled")
        one.kill()
        two.kill()
        assert [await one.wait(), await two.wait()] == [-signal.SIGKILL] * 2
    await own_server.thaw()
    async with sender(own_server.url, journal, 50, 51) as third, StreamBroker.connect(own_server.url) as sb:
        third.stdin.write(b"go\n")

        async def all_there():
            return sorted(await stored(sb)) == list(range(51))

        await eventually(all_there, within=60)


@pytest.mark.nats
@pytest.mark.fault
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("point", "count", "first"),
    [("before_commit", 6, 100), ("before_commit", 7, 200), ("after_commit", 6, 300), ("before_mark", 2, 400)],
)
async def test_a_sender_killed_at(stream_broker, nats_server, tmp_path, point, count, first):
    """Around its commit and around the mark that it is stored: what was said to be on disk is stored, and once."""
    last = first + 40
    await stream_broker.declare(BATTLES)
    async with sender(nats_server.url, tmp_path, first, last, point, count) as doomed:
        doomed.stdin.write(b"go\n")
        told, _ = await asyncio.wait_for(doomed.communicate(), 30)
        assert doomed.returncode == -signal.SIGKILL
    kept = {int(line.split()[1]) for line in told.splitlines()}
    assert len(kept) < 40
    async with sender(nats_server.url, tmp_path, last, last + 1) as heir:
        heir.stdin.write(b"go\n")

        async def all_there():
            return kept | {last} <= set(await stored(stream_broker))

        await eventually(all_there, within=60)
    # A server that is asked for a stream anew may bring back what the one before it had.
    found = [number for number in await stored(stream_broker) if first <= number <= last]
    assert sorted(found) == sorted(set(found))
    assert len(set(found) - kept - {last}) <= 1, "more than the one in hand"
