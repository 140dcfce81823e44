"""SQLite with one hop to its thread for each statement at most, where the usual cursor takes four.

aiosqlite goes there to make a cursor, to execute, to fetch and to close; a hop costs more than a small statement. Here
all of it happens in one go, which also leaves no half-fetched statement behind when whoever waits for it is cancelled.
In a transaction that holds the file's lock, what has shown to be short is executed without a hop.
"""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from threading import Lock, Thread
from time import perf_counter, thread_time
from typing import TYPE_CHECKING, Any, Final, Self

import aiosqlite

from broker.exactly_once.short_statements import LONG, ShortStatements, can_be_given_up

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sqlalchemy.engine.interfaces import Dialect
    from sqlalchemy.pool import ConnectionPoolEntry

_ITERATED_AT_A_TIME: Final = 64
_LOCKS: Final = "BEGIN IMMEDIATE"
_OPERATIONS: Final = 1_000
"""Steps of SQLite's machine between two looks at the clock; some 20 us."""
_LITTLE: Final = 64
"""Rows, in or out, that may be handled on the event loop's thread."""
_SMALL: Final = 16_384
"""Characters or bytes of a value in them."""
_END: Final = object()
"""What the last function that a thread is asked for returns."""


class OneHopCursor:
    """What SQLAlchemy uses of a cursor; rows are here when ``execute`` returns."""

    def __init__(self, connection: OneHopConnection) -> None:
        self.arraysize = 1
        self.description: Any = None
        self.rowcount = -1
        self.lastrowid: int | None = None
        self._connection = connection
        self._rows: list[Any] = []

    async def __aenter__(self) -> Self:
        return self

    async def execute(self, statement: str, parameters: Sequence[Any] = ()) -> OneHopCursor:
        """Execute and fetch."""
        await self._execute("execute", statement, parameters)
        return self

    async def executemany(self, statement: str, parameters: Iterable[Sequence[Any]]) -> OneHopCursor:
        """Execute for each set of parameters."""
        await self._execute("executemany", statement, parameters)
        return self

    async def fetchone(self) -> Any | None:
        """The next row."""
        return self._rows.pop(0) if self._rows else None

    async def fetchmany(self, size: int | None = None) -> list[Any]:
        """The next rows."""
        size = size or self.arraysize
        some, self._rows = self._rows[:size], self._rows[size:]
        return some

    async def fetchall(self) -> list[Any]:
        """The rows that are left."""
        rows, self._rows = self._rows, []
        return rows

    async def close(self) -> None:
        """It is closed."""

    async def _execute(self, verb: str, statement: str, parameters: Any) -> None:
        connection = self._connection
        if connection.nobody_waits and statement in connection.short and _is_little(verb, parameters):
            if connection.short.loop_is_due():
                await asyncio.sleep(0)
            if connection.nobody_waits and await self._at_once(verb, statement, parameters):
                return
        connection.short.took_in_thread(
            statement, await connection.in_thread(self._in_thread, verb, statement, parameters)
        )
        if statement == _LOCKS:
            connection.locks = True

    async def _at_once(self, verb: str, statement: str, parameters: Any) -> bool:
        """Execute and fetch here; whether it came to its end, which one that only reads has to within 1 ms."""
        connection, unread = self._connection, None
        reads, began = can_be_given_up(statement), perf_counter()
        if reads:
            connection.raw.set_progress_handler(lambda: perf_counter() - began > LONG, _OPERATIONS)
        try:
            unread = self._run(verb, statement, parameters, _LITTLE)
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
                raise
            return False
        finally:
            if reads:
                connection.raw.set_progress_handler(None, 0)
            if perf_counter() - began > LONG:
                connection.short.was_long(statement)
            connection.look()
        if unread is not None:
            self._rows += await connection.in_thread(_rest, unread)
        return True

    def _in_thread(self, verb: str, statement: str, parameters: Any) -> float:
        """Execute and fetch; seconds of processor time."""
        began = thread_time()
        self._run(verb, statement, parameters)
        return thread_time() - began

    def _run(self, verb: str, statement: str, parameters: Any, most: int | None = None) -> sqlite3.Cursor | None:
        """Execute and fetch; where there may be more rows than ``most``, the cursor that has them."""
        cursor, unread = self._connection.raw.cursor(), False
        try:
            getattr(cursor, verb)(statement, parameters)
            self.description, self.rowcount, self.lastrowid = cursor.description, cursor.rowcount, cursor.lastrowid
            if cursor.description is not None:
                self._rows = cursor.fetchall() if most is None else cursor.fetchmany(most)
            unread = len(self._rows) == most
        finally:
            if not unread:
                cursor.close()
        return cursor if unread else None


def _is_little(verb: str, parameters: Any) -> bool:
    """Whether it is no more than what a text is known by: one execution, with nothing large in it."""
    rows = [parameters] if verb == "execute" else parameters
    if not isinstance(rows, list | tuple) or len(rows) > _LITTLE:
        return False
    return not any(isinstance(value, str | bytes) and len(value) > _SMALL for row in rows for value in row)


def _rest(cursor: sqlite3.Cursor) -> list[Any]:
    """The rows that are left. The cursor is closed where it was used last: nobody else may while it is at work."""
    try:
        return cursor.fetchall()
    finally:
        cursor.close()


Asking = tuple["asyncio.Future[Any] | None", "Callable[[], Any]"]


class Asked:
    """What a connection's thread is asked to do, by whichever of aiosqlite's ways, and whether it has done it all."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Asking] = SimpleQueue()
        self._lock = Lock()
        self._undone = 0

    @property
    def all_done(self) -> bool:
        """Whether the thread has nothing to do. Only who alone may ask knows that it stays so."""
        return self._undone == 0

    def put_nowait(self, asking: Asking) -> None:
        """Ask for something more."""
        with self._lock:
            self._undone += 1
        self._queue.put_nowait(asking)

    def get(self) -> Asking:
        """The next thing to do, for the thread."""
        return self._queue.get()

    def done(self) -> None:
        """It is done. To be said before anybody is told what came of it."""
        with self._lock:
            self._undone -= 1


class OneHopConnection(aiosqlite.Connection):
    """An aiosqlite connection with such cursors.

    Attributes:
        short: what need not be executed in its thread.
        locks: its transaction, if it is in one, has had the file's lock from the beginning.
    """

    def __init__(self, database: str, **options: Any) -> None:
        options["check_same_thread"] = False  # its thread and the event loop's, never at once
        super().__init__(partial(sqlite3.connect, database, **options), _ITERATED_AT_A_TIME)
        self._tx: Asked = Asked()  # type: ignore[assignment]  # aiosqlite puts, and our thread gets
        self._thread = Thread(target=_work, args=(self._tx,), name="gamebroker-sqlite", daemon=True)
        self.short = ShortStatements()
        self.locks = False
        self._watched = False

    @property
    def nobody_waits(self) -> bool:
        """Whether a statement would begin at once: its thread is idle, and no other process can hold the lock."""
        return self.locks and self._tx.all_done and self.in_transaction and not self._watched

    @property
    def raw(self) -> sqlite3.Connection:
        """The connection itself, for its own thread, and for the event loop's while that is idle."""
        return self._conn

    async def in_thread(self, function: Any, *arguments: Any) -> Any:
        """Call it there."""
        return await self._execute(function, *arguments)

    async def _execute(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
        """Every way into the thread: whatever was done there, the transaction may be another one now."""
        try:
            return await super()._execute(fn, *args, **kwargs)  # type: ignore[no-untyped-call]  # aiosqlite's
        finally:
            self.look()

    async def set_progress_handler(self, handler: Any, n: int) -> None:
        """One of the caller's: there is room for one only, so everything goes to the thread from now on."""
        self._watched = True
        await super().set_progress_handler(handler, n)

    def look(self) -> None:
        """See whether the transaction that had the lock is over."""
        try:
            self.locks = self.locks and self.in_transaction
        except (ValueError, sqlite3.ProgrammingError):  # closed
            self.locks = False

    def tell(self, function: Callable[[], Any]) -> None:
        """Call it before the next statement; nobody waits for it."""
        if self._tx.all_done:
            function()
        else:
            self._tx.put_nowait((None, function))

    async def rollback(self) -> None:
        """Roll back; no hop when there is nothing, as after every reading."""
        if self.in_transaction or not self._tx.all_done:
            await super().rollback()

    def stop(self) -> asyncio.Future[Any] | None:
        """End the thread once it has done what it was asked for; what can be awaited, inside an event loop.

        Only the first time: behind its end the thread does nothing that anybody could wait for.
        """
        if not self._running:
            return None
        self._running = False
        future = None
        with suppress(RuntimeError):
            future = asyncio.get_running_loop().create_future()
        self._tx.put_nowait((future, self._end))
        return future

    def _end(self) -> object:
        raw, self._connection = self._connection, None
        if raw is not None:
            raw.close()
        return _END

    def cursor(self) -> OneHopCursor:  # type: ignore[override]  # SQLAlchemy enters what it gets here, and asks no more of it
        """A cursor."""
        return OneHopCursor(self)


def _work(asked: Asked) -> None:
    """What a connection's thread does: one function after the other, as they were asked for."""
    result = None
    while result is not _END:
        future, function = asked.get()
        result = _carried_out(function, asked, future)
        del future, function  # while the thread waits, it holds nobody's rows


def _carried_out(function: Callable[[], Any], asked: Asked, future: asyncio.Future[Any] | None) -> Any:
    """Call it, and tell who waits. An event loop that is closed by now has nobody who does."""
    result = error = None
    try:
        result = function()
    except BaseException as exc:  # noqa: BLE001 - it is raised where it is awaited
        error = exc
    asked.done()
    if future is not None:
        with suppress(RuntimeError):
            future.get_loop().call_soon_threadsafe(_tell, future, result, error)
    return result


def _tell(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


def connect(dialect: Dialect, _: ConnectionPoolEntry, arguments: Any, options: Any) -> Any:
    """SQLAlchemy's ``do_connect``: a connection with cursors of ours."""
    driver: Any = dialect.loaded_dbapi
    return driver.connect(*arguments, **options, async_creator_fn=OneHopConnection)
