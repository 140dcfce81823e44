"""The database of a run: where the books are, how it is read, held up, restarted, and kept for the checker."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from abc import ABC, abstractmethod
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, Final

import psycopg

from broker.exactly_once import Inbox
from loadtest.chaos.books import APPEND_ONLY, BOOKS, GUARDS, INBOX, guards, reader, tables
from loadtest.postgres import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from loadtest.chaos.plan import Plan

_ADDRESS: Final = "database.url"
_TO_GET_IT: Final = 20.0
_CHUNK: Final = 5000

Row = tuple[Any, ...]


class Unreadable(Exception):
    """The database does not answer now."""


class Database(ABC):
    """The database of a run."""

    url: str
    """For the library."""

    async def open(self, directory: Path) -> None:
        """Make the tables; workers find it from now on.

        Raises:
            OSError, DatabaseUnavailable: there can be none.
        """
        async with Inbox(self.url) as inbox:
            await inbox.create()
        await asyncio.to_thread(self._prepare)
        (directory / _ADDRESS).write_text(self.url, encoding="utf-8")

    @abstractmethod
    def _prepare(self) -> None:
        """Make the books' own tables."""

    @abstractmethod
    def rows(self, query: str, values: Sequence[Any] = ()) -> list[Row]:
        """What a query finds; blocks. Placeholders are SQLite's.

        Raises:
            Unreadable: see there.
        """

    def hold(self, seconds: float) -> bool:
        """Keep every worker from writing; blocks as long. Whether nothing was written meanwhile.

        Raises:
            Unreadable: see there.
        """
        with self._held():
            before = self.last()
            time.sleep(seconds)
            return self.last() == before

    @abstractmethod
    def _held(self) -> AbstractContextManager[None]:
        """As long as it is open nobody can commit."""

    def last(self) -> int:
        """Number of what took effect last.

        Raises:
            Unreadable: see there.
        """
        [(last,)] = self.rows("SELECT max(id) FROM outbox")
        return int(last or 0)

    @abstractmethod
    def restart(self, seconds: float, *, how: str) -> str:
        """``"stop"`` or ``"kill"`` it, and start it again so many seconds later; what shows that. Blocks.

        Empty when nothing does.
        """

    @abstractmethod
    def keep(self) -> None:
        """Leave the books in the run's directory, for the checker; blocks."""

    @abstractmethod
    def close(self) -> None:
        """End it."""


class SqliteDatabase(Database):
    """A file in the run's directory."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / BOOKS
        self.url = f"sqlite+aiosqlite:///{self._path}"

    def _prepare(self) -> None:
        with closing(sqlite3.connect(self._path)) as db:
            db.executescript(tables("sqlite"))

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[Row]:
        """See ``Database``."""
        try:
            with closing(reader(self._path)) as db:
                return db.execute(query, values).fetchall()
        except sqlite3.OperationalError as exc:
            raise Unreadable(str(exc)) from exc

    @contextmanager
    def _held(self) -> Iterator[None]:
        with closing(sqlite3.connect(self._path, timeout=_TO_GET_IT, isolation_level=None)) as db:
            db.execute("BEGIN IMMEDIATE")
            yield
            db.execute("ROLLBACK")

    def restart(self, seconds: float, *, how: str) -> str:
        """Never planned: a file has no server."""
        raise NotImplementedError

    def keep(self) -> None:
        """It is there."""

    def close(self) -> None:
        """Nothing to end."""


class PostgresDatabase(Database):
    """A real PostgreSQL server, of this run alone."""

    def __init__(self, directory: Path) -> None:
        self._copy = directory / BOOKS
        self._server = PostgresServer()
        self._server.start()
        self.url = self._server.url()

    def _prepare(self) -> None:
        with closing(self._server.connect()) as db:
            db.execute(tables("postgres").encode())

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[Row]:
        """See ``Database``."""
        try:
            with closing(self._server.connect()) as db:
                return db.execute(query.replace("?", "%s").encode(), values).fetchall()
        except psycopg.OperationalError as exc:
            raise Unreadable(str(exc)) from exc

    @contextmanager
    def _held(self) -> Iterator[None]:
        with closing(self._server.connect()) as db, db.transaction():
            db.execute(f"LOCK TABLE {INBOX} IN EXCLUSIVE MODE".encode())
            yield

    def restart(self, seconds: float, *, how: str) -> str:
        """See ``Database``."""
        before = self._server.pid
        with closing(self._server.connect()) as witness:
            (self._server.kill if how == "kill" else self._server.stop)()
            time.sleep(seconds)
            self._server.start()
            try:
                witness.execute("SELECT 1")
            except psycopg.OperationalError:
                return f"process {before} is now {self._server.pid}, and cut its connections off"
        return ""

    def keep(self) -> None:
        """Copy every table as it is, from one snapshot, and the guards that are there."""
        with closing(self._server.connect()) as db, closing(sqlite3.connect(self._copy)) as copy, db.transaction():
            db.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            copy.executescript(
                "CREATE TABLE posting (id INTEGER, key TEXT, account TEXT, amount INTEGER);"
                "CREATE TABLE outbox (id INTEGER, key TEXT, body TEXT);"
                "CREATE TABLE balance (account TEXT, amount INTEGER);"
                f"CREATE TABLE {INBOX} (consumer TEXT, subject TEXT, key TEXT, digest BLOB, stream TEXT, "
                "sequence INTEGER, at REAL);"
            )
            for table in (*APPEND_ONLY, "balance", INBOX):
                self._copy_table(db, copy, table)
            there = {name for (name,) in db.execute("SELECT tgname FROM pg_trigger WHERE tgenabled <> 'D'")}
            copy.commit()
            copy.executescript(guards())
            for name in GUARDS - there:
                copy.execute(f"DROP TRIGGER {name}")

    @staticmethod
    def _copy_table(db: psycopg.Connection[Row], copy: sqlite3.Connection, table: str) -> None:
        with db.cursor(name=f"copy_{table}") as cursor:
            cursor.execute(f"SELECT * FROM {table}".encode())  # noqa: S608 - one of four names above
            while some := cursor.fetchmany(_CHUNK):
                places = ", ".join("?" * len(some[0]))
                copy.executemany(f"INSERT INTO {table} VALUES ({places})", some)  # noqa: S608 - likewise

    def close(self) -> None:
        """See ``Database``."""
        self._server.remove()


def database_of(plan: Plan, directory: Path) -> Database:
    """The one the plan says, running; blocks.

    Raises:
        OSError: it cannot run here.
    """
    return PostgresDatabase(directory) if plan.db == "postgres" else SqliteDatabase(directory)


def address(directory: Path) -> str:
    """The URL of a run's database."""
    return (directory / _ADDRESS).read_text(encoding="utf-8")
