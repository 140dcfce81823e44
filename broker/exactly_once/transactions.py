"""A transaction that holds marks and effects together: begun, watched over, committed."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, Final, cast
from weakref import WeakKeyDictionary

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from broker.contracts.errors import InvalidOption
from broker.exactly_once import hooks
from broker.exactly_once.endings import Guard
from broker.exactly_once.errors import DatabaseContended, TransactionEnded
from broker.exactly_once.trouble import causes, trouble
from broker.exactly_once.turns import Turn, watch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncTransaction

    from broker.exactly_once.databases import Database

_SAVEPOINT: Final = "gamebroker_turn"
"""Not one of SQLAlchemy's names, which a handler's own savepoints have."""
_LEGACY: Final = -1
"""``sqlite3.LEGACY_TRANSACTION_CONTROL`` of Python 3.12: transactions begin by statements, as they always did."""
_LEAVE_IT: Final = (
    'take the listener for "begin" off it, and autocommit= out of its connect_args, or give Inbox the URL; BEGIN and '
    "COMMIT are the inbox's to say"
)
_GUARD: Final = "gamebroker.guard"
_PG_IN_TRANSACTION: Final = 2
"""libpq's PQTRANS_INTRANS: in a transaction in which nothing has failed."""


class OwnedConnection(AsyncConnection):
    """The inbox's own connection, on which it lends turns to handlers.

    Attributes:
        guard: keeps everybody but the inbox from ending the transaction (SQLite).
        torn: a savepoint could be neither kept nor undone, so nothing here may be committed.
        when_committed: called when it is; they return at once and never raise.
    """

    __slots__ = ("guard", "torn", "when_committed")

    def __init__(self, engine: AsyncEngine) -> None:
        super().__init__(engine)
        self.guard: Guard | None = None
        self.torn = False
        self.when_committed: set[Callable[[], None]] = set()

    async def settle(self) -> None:
        """Wait for the statements that were sent: they wait for each other, and on SQLite no commit waits for them."""
        if self.sync_connection is not None and not self.invalidated:
            sent = getattr(self.sync_connection.connection.dbapi_connection, "_execute_mutex", None)
            async with sent or nullcontext():
                pass

    async def release(self, *, sound: bool) -> None:
        """Back into the pool, rolled back unless it was committed; thrown away when it may not be sound."""
        if not sound and not self.invalidated:
            await self.invalidate()
        try:
            if self.guard is not None:
                await self.settle()
                await self.rollback()
        finally:
            if self.guard is not None:
                self.guard.shut = False
            await self.close()


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


class _Enough(Exception):
    """Rolls back a transaction that was only tried out."""


_writers: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, asyncio.Lock]]] = WeakKeyDictionary()
"""Of each event loop, whose turn it is to write which SQLite file."""


class Transactions:
    """Makes transactions on a database, one after the other where it takes one writer only.

    Attributes:
        kind: of database.

    Args:
        database: where they are.
        lends: handlers will have turns in them.
    """

    def __init__(self, database: Database, *, lends: bool = False) -> None:
        self.kind = database.kind
        self._database = database
        self._lends = lends
        if lends:
            watch(database.engine.sync_engine)

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
            sound = ending = False
            try:
                own = await self._start(connection)
                try:
                    yield connection
                except Exception as exc:
                    raise (trouble(exc, ours=connection.invalidated) or exc) from exc
                ending = True
                await self._end(connection, own)
                sound = True
            except Exception as exc:
                # A COMMIT that fails leaves SQLite's transaction open, and SQLAlchemy pools the connection as it is.
                sound = not ending and not _was_cancelled(exc)
                _pass_on_cancellation(exc)
                raise
            finally:
                await _release(connection, sound=sound)

    async def check(self) -> None:
        """Begin a transaction, and roll it back.

        Raises:
            InvalidOption: the engine has its own idea of when transactions begin or end.
            DatabaseUnavailable: it cannot be reached.
        """
        if self.kind == "postgresql":
            return
        try:
            told = await self._try_out()
        except DatabaseContended:
            return  # somebody is writing: it was a transaction that was asked for
        except SQLAlchemyError as exc:
            told = str(getattr(exc, "orig", None) or exc)
        if told:
            raise InvalidOption(f"no transaction can be had on this engine ({told}): {_LEAVE_IT}", option="database")

    async def _try_out(self) -> str:
        """What is wrong with a transaction; empty when nothing is."""
        with suppress(_Enough):
            async with self.begin() as connection:
                driver: Any = (await connection.get_raw_connection()).driver_connection
                if getattr(driver._conn, "autocommit", _LEGACY) != _LEGACY:  # noqa: SLF001 - aiosqlite does not pass it on
                    return f"autocommit={driver._conn.autocommit}"  # noqa: SLF001 - the same
                raise _Enough
        with suppress(ValueError):  # closed, by a pool that keeps none
            if driver.in_transaction:
                return "a rollback has no effect"
        return ""

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
            if self._lends and self.kind == "sqlite":
                await self._shut(connection)
        except Exception as exc:
            raise (trouble(exc, ours=True) or exc) from exc
        return own

    async def _shut(self, connection: OwnedConnection) -> None:
        """Nobody but the inbox ends the transaction: each of SQLite's connections has a guard."""
        about = connection.info
        guard: Guard | None = about.get(_GUARD)
        if guard is None:
            driver: Any = (await connection.get_raw_connection()).driver_connection
            guard = Guard(driver)
            await guard.stand()
            about[_GUARD] = guard
        connection.guard = guard
        guard.shut = True

    async def _end(self, connection: OwnedConnection, own: AsyncTransaction) -> None:
        if not own.is_active:
            raise TransactionEnded
        if connection.guard is not None:
            await connection.settle()
        self.check_whole(connection)
        hooks.reached("before_commit")
        if connection.guard is not None:
            connection.guard.shut = False
        try:
            await own.commit()
            for tell in connection.when_committed:
                tell()
            hooks.reached("after_commit")
        except Exception as exc:
            raise (trouble(exc, ours=True) or exc) from exc

    @asynccontextmanager
    async def alone(self, connection: OwnedConnection) -> AsyncIterator[None]:
        """What the block does is undone when it raises, and nothing else of the transaction."""
        await connection.exec_driver_sql(f"SAVEPOINT {_SAVEPOINT}")
        try:
            yield
        except Exception:
            await _leave(connection, "ROLLBACK TO SAVEPOINT", "RELEASE SAVEPOINT")
            raise
        await _leave(connection, "RELEASE SAVEPOINT")

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
        if connection.sync_connection is None or connection.invalidated or connection.torn:
            return False
        driver = connection.sync_connection.connection.driver_connection
        if self.kind == "sqlite":
            return bool(getattr(driver, "in_transaction", False))
        return driver is not None and int(cast("Any", driver).info.transaction_status) == _PG_IN_TRANSACTION


def lender_of(connection: AsyncConnection) -> OwnedConnection | None:
    """The one of ours in whose transaction it works; ``None`` when the transaction is somebody else's."""
    if isinstance(connection, OwnedConnection):
        return connection
    turn = connection.sync_connection
    return turn.lender if isinstance(turn, Turn) else None


async def _leave(connection: OwnedConnection, *verbs: str) -> None:
    connection.torn = True
    for verb in verbs:
        await connection.exec_driver_sql(f"{verb} {_SAVEPOINT}")
    connection.torn = False


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
