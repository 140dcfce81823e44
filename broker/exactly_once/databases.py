"""The database that holds effects: opened from a URL or handed in, checked for what exactly-once needs of it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

from sqlalchemy import event, inspect, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.exc import NoSuchModuleError as NoSuchDialect
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from broker.contracts.errors import InvalidOption, Unsupported
from broker.exactly_once import schema
from broker.exactly_once.errors import SchemaMissing
from broker.exactly_once.trouble import note_ours, trouble

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.ext.asyncio import AsyncConnection

Kind = Literal["sqlite", "postgresql"]

_DRIVERS: Final = {"sqlite": "aiosqlite", "postgresql": "psycopg"}
_ALIASES: Final = {"postgres": "postgresql"}
_BUSY_TIMEOUT: Final = 5.0
"""Seconds a writer waits for another process to finish before the wait counts as trouble."""
_POOL: Final = 16
_KEEPALIVE: Final = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}
"""A host that vanished is noticed within half a minute instead of two hours."""
_FULL: Final = 2
"""``PRAGMA synchronous``: FULL, and EXTRA is more; below it a commit may be lost with the power."""


class Database:
    """An engine, and which of the two kinds of database it is.

    Attributes:
        engine: SQLAlchemy's.
        kind: ``"sqlite"`` or ``"postgresql"``.

    Args:
        database: a URL such as ``sqlite+aiosqlite:///ledger.db`` or ``postgresql+psycopg://user@host/db`` (the driver
            may be left out), or an ``AsyncEngine``, which stays the caller's to dispose of.
        synced: whether a commit in a SQLite file that we open waits for the disk. Without it a power cut may undo the
            last of them; a kill does not.

    Raises:
        InvalidOption: neither of them, or a SQLite database in memory.
        Unsupported: another kind of database or driver, or its driver is not installed.
    """

    def __init__(self, database: str | AsyncEngine, *, synced: bool = True) -> None:
        self._owned = not isinstance(database, AsyncEngine)
        self.engine = database if isinstance(database, AsyncEngine) else _open(database, synced=synced)
        dialect = self.engine.dialect
        if _DRIVERS.get(dialect.name) != dialect.driver:
            told = f"{dialect.name}+{dialect.driver}: use sqlite+aiosqlite or postgresql+psycopg"
            raise Unsupported(told)
        self.kind: Kind = "sqlite" if dialect.name == "sqlite" else "postgresql"
        if not event.contains(self.engine.sync_engine, "handle_error", note_ours):
            event.listen(self.engine.sync_engine, "handle_error", note_ours)
        if self.kind == "sqlite":
            _refuse_memory(self.engine.url)
            if not event.contains(self.engine.sync_engine, "invalidate", _roll_back):
                event.listen(self.engine.sync_engine, "invalidate", _roll_back)

    def unsynced(self) -> Database:
        """The same SQLite file with commits that do not wait for the disk, for what may be undone by a power cut.

        What is committed in the ordinary way afterwards takes them to the disk as well. A database or an engine of the
        caller's is returned as it is.
        """
        return (
            Database(self.engine.url.render_as_string(hide_password=False), synced=False)
            if self._owned and self.kind == "sqlite"
            else self
        )

    async def create(self) -> None:
        """Make the tables that are missing. Any number of processes may do it at once.

        Raises:
            DatabaseUnavailable: it cannot be reached.
        """
        try:
            async with self.engine.begin() as connection:
                if self.kind == "sqlite":
                    await connection.exec_driver_sql("BEGIN IMMEDIATE")
                await connection.run_sync(schema.create)
        except Exception as exc:
            raise (trouble(exc, ours=True) or exc) from exc

    async def check(self) -> None:
        """Refuse a database that could not keep the promise.

        Raises:
            SchemaMissing: the tables are not there.
            InvalidOption: a commit would not be on disk when it returns, or the engine commits every statement.
            DatabaseUnavailable: it cannot be reached.
        """
        try:
            async with self.engine.connect() as connection:
                missing = await connection.run_sync(_missing_tables)
                unsafe = await (_unsafe_sqlite if self.kind == "sqlite" else _unsafe_postgresql)(connection)
        except Exception as exc:
            raise (trouble(exc, ours=True) or exc) from exc
        if missing:
            told = f"no table {', '.join(missing)}: await inbox.create(), or migrate (broker.exactly_once.upgrade)"
            raise SchemaMissing(told)
        if unsafe:
            raise InvalidOption(unsafe, option="database")

    async def close(self) -> None:
        """Let go of the connections, unless the engine is the caller's. Idempotent."""
        if self._owned:
            await self.engine.dispose()


def _open(database: object, *, synced: bool) -> AsyncEngine:
    if not isinstance(database, str):
        told = f"{type(database).__name__}: must be a database URL or an SQLAlchemy AsyncEngine"
        raise InvalidOption(told, option="database")
    url = _parsed(database)
    if url is None:  # outside of what was caught: its text may hold the password
        raise InvalidOption("the database URL is not one SQLAlchemy understands", option="database")
    if url.get_backend_name() not in _DRIVERS:
        told = f"{url.get_backend_name()}: use sqlite+aiosqlite or postgresql+psycopg"
        raise Unsupported(told)
    if url.get_backend_name() == "sqlite":
        _refuse_memory(url)
    try:
        engine = create_async_engine(url, **_settings(url))
    except ImportError as exc:
        raise Unsupported(f"the database driver is missing: pip install 'gamebroker[sql]' ({exc})") from exc
    if engine.dialect.name == "sqlite":
        from broker.exactly_once import one_hop  # noqa: PLC0415 - its driver need not be installed for PostgreSQL

        event.listen(engine.sync_engine, "do_connect", one_hop.connect)
        event.listen(engine.sync_engine, "connect", partial(_prepare_sqlite, synced=synced))
    return engine


def _parsed(database: str) -> URL | None:
    try:
        url = make_url(database)
        url = url.set(drivername=_with_driver(url.drivername))
        url.get_dialect()
    except ImportError:  # a driver that is missing is told when the engine is made
        return url
    except (ArgumentError, NoSuchDialect, ValueError):
        return None
    return url


def _with_driver(name: str) -> str:
    kind, _, driver = name.partition("+")
    kind = _ALIASES.get(kind, kind)
    return f"{kind}+{driver or _DRIVERS.get(kind, '')}".rstrip("+")


def _settings(url: URL) -> dict[str, Any]:
    if url.get_backend_name() == "sqlite":
        return {"connect_args": {"timeout": _BUSY_TIMEOUT}}
    return {"pool_size": _POOL, "max_overflow": _POOL, "connect_args": dict(_KEEPALIVE)}


def _refuse_memory(url: URL) -> None:
    if not url.database or ":memory:" in url.database or url.query.get("mode") == "memory":
        told = "a SQLite database in memory forgets with its process what was applied; name a file"
        raise InvalidOption(told, option="database")


def _prepare_sqlite(connection: DBAPIConnection, _: object, *, synced: bool) -> None:
    """Readers beside one writer, every commit on disk if it is to be, and foreign keys meant as they are written."""
    cursor = connection.cursor()
    for pragma in ("journal_mode = WAL", f"synchronous = {'FULL' if synced else 'NORMAL'}", "foreign_keys = ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _roll_back(connection: DBAPIConnection, *_: object) -> None:
    """Let go of the file's lock before a connection is thrown away, as a cancelled statement makes happen.

    SQLite closes a connection when the last of its statements is gone, and one that was cancelled half-way lives on in
    the cancellation's own traceback: until it is collected, nobody could write.
    """
    driver: Any = getattr(connection, "_connection", None)
    raw = getattr(driver, "_connection", None)
    if raw is not None:
        driver._tx.put_nowait((None, raw.rollback))  # noqa: SLF001 - aiosqlite's thread: whatever is under way there comes first


async def _unsafe_sqlite(connection: AsyncConnection) -> str:
    """Why what was acked might be undone; empty when it cannot."""
    synchronous = (await connection.exec_driver_sql("PRAGMA synchronous")).scalar_one()
    if synchronous < _FULL:
        return f"SQLite with synchronous={synchronous}: a power cut may undo what was acked; set it to FULL"
    return ""


async def _unsafe_postgresql(connection: AsyncConnection) -> str:
    """The same."""
    driver: Any = (await connection.get_raw_connection()).driver_connection
    if driver.autocommit:
        return "the engine has isolation_level=AUTOCOMMIT: key and effect would not be one transaction"
    for setting in ("fsync", "synchronous_commit"):
        if (await connection.exec_driver_sql(f"SHOW {setting}")).scalar_one() == "off":
            return f"PostgreSQL with {setting}=off: a crash of the server may undo what was acked"
    return ""


def _missing_tables(connection: Connection) -> list[str]:
    present = set(inspect(connection).get_table_names())
    return sorted(schema.METADATA.tables.keys() - present)
