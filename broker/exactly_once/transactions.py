"""A transaction that holds marks and effects together: begun, watched over, committed."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast
from weakref import WeakKeyDictionary

from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from broker.exactly_once import hooks
from broker.exactly_once.errors import TransactionEnded
from broker.exactly_once.trouble import causes, trouble

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncTransaction

    from broker.exactly_once.databases import Database

_ENDINGS: Final = frozenset({"COMMIT", "END", "ROLLBACK", "ABORT"})
_PG_IN_TRANSACTION: Final = 2
"""libpq's PQTRANS_INTRANS: in a transaction in which nothing has failed."""


class OwnedConnection(AsyncConnection):
    """The connection a handler works on. Its transaction is the inbox's to end.

    Attributes:
        when_committed: called when it is; they return at once and never raise.

    Raises:
        TransactionEnded: from ``commit``, ``rollback``, ``close`` and ``invalidate``.
    """

    __slots__ = ("when_committed",)

    def __init__(self, engine: AsyncEngine, connection: Connection | None = None) -> None:
        super().__init__(engine, connection)
        self.when_committed: set[Callable[[], None]] = set()

    async def commit(self) -> NoReturn:
        """Refused: it would part the effect from its mark."""
        raise TransactionEnded("tx.commit(): the inbox commits when the handler has returned")

    async def rollback(self) -> NoReturn:
        """Refused: raise, and the inbox rolls back."""
        raise TransactionEnded("tx.rollback(): raise instead, or use tx.begin_nested() for what may fail alone")

    async def close(self) -> NoReturn:
        """Refused: it is the inbox's connection."""
        raise TransactionEnded("tx.close(): the connection is the inbox's")

    async def release(self, *, sound: bool) -> None:
        """Back into the pool, what its owner calls instead of ``close``; thrown away when it may not be sound."""
        if not sound and not self.invalidated:
            await super().invalidate()
        await super().close()


@asynccontextmanager
async def session_on(
    tx: AsyncConnection, maker: Callable[..., AsyncSession] = AsyncSession, **options: Any
) -> AsyncIterator[AsyncSession]:
    """An ORM session inside the handler's transaction: flushed when it ends well, rolled back alone when it raises.

    Args:
        tx: what the handler was given.
        maker: your own ``async_sessionmaker`` (its ``bind`` is replaced) or subclass of ``AsyncSession``.
        options: for the session.
    """
    session = maker(bind=tx, join_transaction_mode="create_savepoint", **options)
    async with session, session.begin():
        yield session


_writers: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, asyncio.Lock]]] = WeakKeyDictionary()
"""Of each event loop, whose turn it is to write which SQLite file."""


class Transactions:
    """Makes transactions on a database, one after the other where it takes one writer only.

    Attributes:
        kind: of database.
    """

    def __init__(self, database: Database) -> None:
        self.kind = database.kind
        self._database = database

    def begin(self) -> AbstractAsyncContextManager[OwnedConnection]:
        """A transaction: committed when the block ends well, rolled back when it raises.

        On SQLite it begins IMMEDIATE, so that one which has begun can finish.

        Raises:
            DatabaseUnavailable: nothing happened, or, when the connection broke in the commit, nobody knows.
            DatabaseContended: it lost against another one; nothing happened.
            TransactionEnded: the block ended it, or left it broken; nothing happened after that.
        """
        return self._begin()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A connection to read from, beside whoever writes.

        Raises:
            DatabaseUnavailable: it cannot be reached.
        """
        connection = OwnedConnection(self._database.engine)
        sound = False
        try:
            await connection.start()
            yield connection
            sound = True
        except Exception as exc:
            sound = not _was_cancelled(exc)
            _pass_on_cancellation(exc)
            raise (trouble(exc, ours=True) or exc) from exc
        finally:
            await _release(connection, sound=sound)

    @asynccontextmanager
    async def _begin(self) -> AsyncIterator[OwnedConnection]:
        async with self._turn():
            connection = OwnedConnection(self._database.engine)
            sound = False
            try:
                own = await self._start(connection)
                try:
                    yield connection
                except Exception as exc:
                    raise (trouble(exc, ours=connection.invalidated) or exc) from exc
                await self._end(connection, own)
                sound = True
            except Exception as exc:
                sound = not _was_cancelled(exc)
                _pass_on_cancellation(exc)
                raise
            finally:
                await _release(connection, sound=sound)

    def _turn(self) -> AbstractAsyncContextManager[Any]:
        """Writers of one file wait in turn here; SQLite itself would let them poll and starve."""
        if self.kind == "postgresql":
            return nullcontext()
        files = _writers.setdefault(asyncio.get_running_loop(), {})
        return files.setdefault(self._database.engine.url.database or "", asyncio.Lock())

    async def _start(self, connection: OwnedConnection) -> AsyncTransaction:
        try:
            await connection.start()
            own = await connection.begin().start()
            if self.kind == "sqlite":
                await connection.exec_driver_sql("BEGIN IMMEDIATE")
            if connection.sync_connection is not None:
                watch = _watch_over_sqlite if self.kind == "sqlite" else _refuse_to_end
                event.listen(connection.sync_connection, "before_cursor_execute", watch)
        except Exception as exc:
            raise (trouble(exc, ours=True) or exc) from exc
        return own

    async def _end(self, connection: OwnedConnection, own: AsyncTransaction) -> None:
        if not own.is_active:
            raise TransactionEnded
        self.check_whole(connection)
        hooks.reached("before_commit")
        try:
            await own.commit()
            for tell in connection.when_committed:
                tell()
            hooks.reached("after_commit")
        except Exception as exc:
            raise (trouble(exc, ours=True) or exc) from exc

    def check_whole(self, connection: OwnedConnection) -> None:
        """Raises ``TransactionEnded`` unless it can be committed."""
        if not self.is_whole(connection):
            told = "a statement on tx failed, or ended the transaction, and the handler returned all the same"
            raise TransactionEnded(told)

    def is_whole(self, connection: OwnedConnection) -> bool:
        """Whether the driver is in a transaction that can be committed.

        PostgreSQL answers the COMMIT of a failed transaction by rolling it back without an error, and so does SQLite
        after an error that ended it: to us both would look like success.
        """
        if connection.sync_connection is None or connection.invalidated:
            return False
        if self.kind == "sqlite":
            return _in_sqlite_transaction(connection.sync_connection)
        driver = connection.sync_connection.connection.driver_connection
        return int(cast("Any", driver).info.transaction_status) == _PG_IN_TRANSACTION


def _refuse_to_end(_connection: object, _cursor: object, statement: str, *_: object) -> None:
    """A COMMIT of the handler's own would part marks from effects; a ROLLBACK TO is a savepoint's."""
    words = statement[:40].upper().replace(";", " ").split(maxsplit=2)
    if words and words[0] in _ENDINGS and "TO" not in words:
        raise TransactionEnded(f"{words[0]}: the inbox ends the transaction when the handler has returned")


def _watch_over_sqlite(connection: Connection, cursor: object, statement: str, *_: object) -> None:
    """After an OR ROLLBACK has ended it, SQLite's driver would begin another one, without what was done before."""
    _refuse_to_end(connection, cursor, statement)
    if not _in_sqlite_transaction(connection):
        raise TransactionEnded("a statement on tx ended the transaction, and the handler went on all the same")


def _in_sqlite_transaction(connection: Connection) -> bool:
    return bool(getattr(connection.connection.driver_connection, "in_transaction", False))


def _was_cancelled(error: BaseException) -> bool:
    """Whether a cancellation is behind an error, so that its connection may be in the middle of something."""
    return any(isinstance(each, asyncio.CancelledError) for each in causes(error))


def _pass_on_cancellation(error: Exception) -> None:
    """A task that is being cancelled ends so, whatever a driver has made of it on the way."""
    task = asyncio.current_task()
    if task is not None and task.cancelling() and _was_cancelled(error):
        raise asyncio.CancelledError from error


async def _release(connection: OwnedConnection, *, sound: bool) -> None:
    """Whatever was begun and not committed is rolled back by it. Shielded: who is cancelled leaves no lock behind.

    A statement that was cancelled may leave its answer in the connection, for the next one to take for its own (psycopg
    3.3 in ``executemany``, which makes an AssertionError of the cancellation). So no connection outlives one.
    """
    if connection.sync_connection is None:
        return
    releasing = asyncio.ensure_future(connection.release(sound=sound))
    with suppress(SQLAlchemyError, OSError):
        await asyncio.shield(releasing)
