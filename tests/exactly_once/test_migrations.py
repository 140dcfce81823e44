"""The shipped migrations and ``create`` make the same tables."""

import asyncio
import subprocess
import sys

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text

from broker.exactly_once import Inbox, SchemaMissing, schema, upgrade
from broker.exactly_once.migrating import VERSION_TABLE, as_ours


def plain(index):
    """An index with the conditions as text."""
    options = {name: str(each) for name, each in index.get("dialect_options", {}).items()}
    return str({**index, "dialect_options": options})


def described(connection):
    """Everything the database knows of our tables."""
    found = inspect(connection)
    return {
        table: {
            "columns": [{**column, "type": str(column["type"])} for column in found.get_columns(table)],
            "key": found.get_pk_constraint(table),
            "unique": found.get_unique_constraints(table),
            "indexes": sorted(map(plain, found.get_indexes(table))),
        }
        for table in schema.METADATA.tables
    }


def statements(connection):
    """SQLite keeps what it was told; blanks aside it is the same."""
    rows = connection.execute(text("SELECT name, sql FROM sqlite_master WHERE name LIKE 'gamebroker%'"))
    return {name: " ".join((sql or "").split()) for name, sql in rows if name != VERSION_TABLE}


async def of(url, look):
    async with Inbox(url) as inbox, inbox.engine.connect() as connection:
        return await connection.run_sync(look)


def differences(connection):
    options = {"version_table": VERSION_TABLE, "include_name": as_ours}
    return compare_metadata(MigrationContext.configure(connection, opts=options), schema.METADATA)


@pytest.fixture
def other_url(kind, tmp_path, postgres):
    if kind == "sqlite":
        yield f"sqlite:///{tmp_path / 'other.db'}"
        return
    with postgres.connect() as connection:
        connection.execute("CREATE SCHEMA made")
        yield f"{postgres.url()}&options=-csearch_path%3Dmade"
        connection.execute("DROP SCHEMA made CASCADE")


async def test_both_ways_lead_to_the_same_tables(url, other_url, kind):
    await upgrade(url)
    assert await of(url, differences) == []
    migrated = await of(url, described)
    async with Inbox(other_url) as inbox:
        await inbox.create()
    assert await of(other_url, described) == migrated
    if kind == "sqlite":
        assert await of(other_url, statements) == await of(url, statements)


async def test_migrating_after_create_and_twice_changes_nothing(url):
    async with Inbox(url) as inbox:
        await inbox.create()
        before = await of(url, described)
        await upgrade(url)
        await upgrade(inbox.engine)
        assert await of(url, described) == before
        await inbox.check()


async def test_others_tables_are_left_alone(url):
    async with Inbox(url) as inbox:
        async with inbox.engine.begin() as connection:
            await connection.execute(text("CREATE TABLE alembic_version (version_num TEXT)"))
            await connection.execute(text("INSERT INTO alembic_version VALUES ('yours')"))
        await upgrade(url)
        async with inbox.engine.connect() as connection:
            assert (await connection.execute(text("SELECT version_num FROM alembic_version"))).scalar_one() == "yours"
        assert await of(url, differences) == []


async def test_tables_may_be_made_by_many_at_once(url):
    many = [Inbox(url) for _ in range(6)]
    await asyncio.gather(*(inbox.create() for inbox in many))
    for inbox in many:
        await inbox.check()
        await inbox.aclose()


def alembic(ini, *words):
    done = subprocess.run(
        [sys.executable, "-m", "alembic", "-c", ini, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.timeout(60)
async def test_alembics_own_command_works_on_the_shipped_steps(url, tmp_path):
    ini = tmp_path / "alembic.ini"
    escaped = url.replace("%", "%%")
    ini.write_text(f"[alembic]\nscript_location = broker.exactly_once:migrations\nsqlalchemy.url = {escaped}\n")
    await asyncio.to_thread(alembic, ini, "upgrade", "head")
    assert "0001" in await asyncio.to_thread(alembic, ini, "current")
    async with Inbox(url) as inbox:
        await inbox.check()
        await asyncio.to_thread(alembic, ini, "downgrade", "base")
        with pytest.raises(SchemaMissing):
            await inbox.check()


@pytest.mark.timeout(60)
async def test_processes_that_start_together_may_all_upgrade(url):
    program = "import asyncio, sys; from broker.exactly_once import upgrade; asyncio.run(upgrade(sys.argv[1]))"
    together = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", program, url, stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    for each in together:
        _, said = await asyncio.wait_for(each.communicate(), 40)
        assert (each.returncode, said) == (0, b"")
