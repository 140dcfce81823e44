"""What an inbox refuses, and when: before a message is taken, in words that name the option and the way out."""

import sqlite3
import subprocess
import sys
from dataclasses import dataclass

import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import create_async_engine

from broker import BrokerError, InvalidOption, QoS, StreamOptions, Unsupported, contract
from broker.exactly_once import DatabaseUnavailable, Inbox, RetentionTooShort, SchemaMissing

DAY = 86_400.0


async def pay(msg, tx):
    raise AssertionError(msg, tx)


def plain(msg, tx):
    raise AssertionError(msg, tx)


async def one_only(msg):
    raise AssertionError(msg)


@pytest.fixture
async def sb(memory_stream_broker):
    await memory_stream_broker.declare(StreamOptions("BATTLES", ["battle.>"]))
    return memory_stream_broker


@pytest.mark.parametrize(
    ("handler", "options", "option", "told"),
    [
        (plain, {}, "handler", "async def"),
        (one_only, {}, "handler", r"\(msg, tx\)"),
        (pay, {"durable": None}, "durable", "durable="),
        (pay, {"headers_only": True}, "headers_only", "bodies"),
        (pay, {"dead_letter": False}, "dead_letter", "dead letters"),
        (pay, {"inbox": "sqlite:///x.db"}, "inbox", "must be an Inbox"),
    ],
)
async def test_what_contradicts_an_inbox_is_refused(sb, inbox, handler, options, option, told):
    with pytest.raises(InvalidOption, match=told) as caught:
        await sb.consume("battle.settle", handler, **{"durable": "w", "inbox": inbox, **options})
    assert caught.value.option == option
    assert [name async for name in sb.consumers.names("BATTLES")] == []


async def test_without_tables_nothing_is_consumed(sb, url):
    async with Inbox(url) as inbox:
        with pytest.raises(SchemaMissing, match=r"inbox\.create\(\)"):
            await sb.consume("battle.settle", pay, durable="w", inbox=inbox)


async def test_keys_must_be_kept_as_long_as_their_messages(sb, url):
    await sb.declare(StreamOptions("OLD", ["old.>"], max_age=30 * DAY))
    async with Inbox(url, keep=30 * DAY) as short, Inbox(url, keep=31 * DAY) as long:
        await short.create()
        with pytest.raises(RetentionTooShort, match="2678400 s at least") as caught:
            await sb.consume("old.settle", pay, durable="w", inbox=short)
        assert caught.value.option == "keep"
        await sb.consume("old.settle", pay, durable="w", inbox=long)


@pytest.mark.parametrize(
    ("database", "error", "told"),
    [
        ("sqlite+aiosqlite://", InvalidOption, "in memory"),
        ("sqlite:///:memory:", InvalidOption, "in memory"),
        ("sqlite:///file:x?mode=memory&uri=true", InvalidOption, "in memory"),
        ("not a url", InvalidOption, "not one SQLAlchemy understands"),
        ("oracle://scott:tiger@host/db", BrokerError, "."),
        ("postgresql+psycopg2://host/db", BrokerError, "."),
        (7, InvalidOption, "must be a database URL"),
    ],
)
def test_a_database_that_will_not_do_is_refused_at_once(database, error, told):
    with pytest.raises(error, match=told) as caught:
        Inbox(database)
    assert "tiger" not in str(caught.value)


@pytest.mark.parametrize("keep", [0, DAY - 1, "90 days", True])
def test_keep_is_at_least_a_day(tmp_path, keep):
    with pytest.raises(InvalidOption, match="keep"):
        Inbox(f"sqlite:///{tmp_path / 'x.db'}", keep=keep)


async def test_sqlite_that_forgets_commits_with_the_power_is_refused(sb, tmp_path):
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'x.db'}")
    event.listen(engine.sync_engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = NORMAL"))
    async with Inbox(engine) as inbox:
        await inbox.create()
        with pytest.raises(InvalidOption, match="power cut"):
            await sb.consume("battle.settle", pay, durable="w", inbox=inbox)
    await engine.dispose()


def savepoint_recipe(engine):
    """SQLAlchemy's own, for savepoints on SQLite."""
    event.listen(engine.sync_engine, "connect", lambda connection, _: setattr(connection, "isolation_level", None))
    event.listen(engine.sync_engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))


class Autocommitting(sqlite3.Connection):
    """What ``autocommit=True`` makes of it from Python 3.12 on: transactions end by statements alone."""

    def commit(self):
        pass

    rollback = commit


@pytest.mark.parametrize(
    ("arguments", "prepare", "told"),
    [
        ({}, savepoint_recipe, "within a transaction"),
        ({"factory": Autocommitting}, lambda _: None, "no effect"),
        *([({"autocommit": how}, lambda _: None, "") for how in (True, False)] if sys.version_info >= (3, 12) else []),
    ],
)
async def test_an_engine_on_which_no_transaction_is_ours_is_refused(sb, tmp_path, arguments, prepare, told):
    url = f"sqlite+aiosqlite:///{tmp_path / 'x.db'}"
    async with Inbox(url) as maker:
        await maker.create()
    engine = create_async_engine(url, connect_args=arguments)
    prepare(engine)
    async with Inbox(engine) as inbox:
        with pytest.raises(InvalidOption, match=f"{told}.*BEGIN and COMMIT") as caught:
            await sb.consume("battle.settle", pay, durable="w", inbox=inbox)
        assert caught.value.option == "database"
    await engine.dispose()


async def test_a_file_that_somebody_is_writing_is_not_refused(sb, tmp_path):
    url = f"sqlite+aiosqlite:///{tmp_path / 'x.db'}"
    async with Inbox(url) as maker:
        await maker.create()
    engine = create_async_engine(url, connect_args={"timeout": 0.05})
    event.listen(engine.sync_engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = FULL"))
    writer = sqlite3.connect(tmp_path / "x.db")
    writer.execute("BEGIN IMMEDIATE")
    async with Inbox(engine) as inbox:
        await sb.consume("battle.settle", pay, durable="w", inbox=inbox)
    writer.close()
    await engine.dispose()


@pytest.mark.parametrize(
    ("setting", "options", "told"),
    [
        ("%20-csynchronous_commit%3Doff", {}, "synchronous_commit=off"),
        ("", {"isolation_level": "AUTOCOMMIT"}, "one transaction"),
    ],
)
async def test_postgresql_that_would_not_keep_the_promise_is_refused(sb, schema, setting, options, told):
    engine = create_async_engine(schema + setting, **options)
    async with Inbox(engine) as inbox:
        await inbox.create()
        with pytest.raises(InvalidOption, match=told):
            await sb.consume("battle.settle", pay, durable="w", inbox=inbox)
    await engine.dispose()


async def test_a_database_that_is_not_there_is_a_typed_error(sb, tmp_path):
    for url in (f"sqlite:///{tmp_path / 'nowhere' / 'x.db'}", "postgresql://nobody@127.0.0.1:1/x"):
        async with Inbox(url) as inbox:
            with pytest.raises(DatabaseUnavailable):
                await inbox.create()
            with pytest.raises(DatabaseUnavailable):
                await sb.consume("battle.settle", pay, durable="w", inbox=inbox)


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_the_broker_alone_does_not_load_sqlalchemy():
    code = "import sys, broker; print(sum(name.partition('.')[0] in {'sqlalchemy', 'alembic'} for name in sys.modules))"
    assert run(code).strip() == "0"


def test_the_inbox_alone_does_not_load_alembic():
    assert run("import sys, broker.exactly_once; print('alembic' in sys.modules)").strip() == "False"


@pytest.mark.parametrize("module", ["sqlalchemy", "greenlet"])
def test_a_missing_extra_is_named(module):
    told = run(f"import sys; sys.modules[{module!r}] = None; import broker; print('light'); import broker.exactly_once")
    assert told.startswith("light")
    assert "pip install 'gamebroker[sql]'" in told
    assert "ImportError" in told.splitlines()[-1]


@pytest.mark.parametrize("module", ["aiosqlite", "psycopg"])
def test_a_missing_driver_is_named(module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(Unsupported, match=r"pip install 'gamebroker\[sql\]'"):
        Inbox("sqlite:///x.db" if module == "aiosqlite" else "postgresql://host/db")


def test_another_kind_of_database_is_named_whether_its_driver_is_there_or_not():
    with pytest.raises(Unsupported, match="mysql: use sqlite"):
        Inbox("mysql://host/db")


@contract(subject="battle.settle", qos=QoS.EXACTLY_ONCE, key="battle_id")
@dataclass
class Ended:
    battle_id: str


@pytest.mark.parametrize("kind", ["sqlite"])
@pytest.mark.usefixtures("kind")
async def test_a_plain_function_is_refused_for_events_as_well(memory_stream_broker, inbox):
    await memory_stream_broker.declare(StreamOptions("BATTLES", ["battle.settle"]))
    with pytest.raises(InvalidOption, match="async def"):
        await memory_stream_broker.on(Ended, plain, durable="worker", inbox=inbox)
    assert [each async for each in memory_stream_broker.consumers.names("BATTLES")] == []
