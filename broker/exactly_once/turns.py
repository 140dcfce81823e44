"""What a handler works on while it is its turn: a connection of its own, on a transaction that is the inbox's.

Other messages may have their turns in the same transaction. So neither can it be ended from here, nor is the connection
good for anything once the turn is over: what a task left behind by a handler writes would be committed with somebody
else's mark, and again with its own.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NoReturn

from sqlalchemy import Connection, event
from sqlalchemy.ext.asyncio import AsyncConnection

from broker.exactly_once.endings import ending, was_refused
from broker.exactly_once.errors import TransactionEnded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import CursorResult, Engine
    from sqlalchemy.pool import PoolProxiedConnection

    from broker.exactly_once.transactions import OwnedConnection

_COMMIT: Final = "tx.commit(): the inbox commits when the handler has returned"
_ROLLBACK: Final = "tx.rollback(): raise instead, or use tx.begin_nested() for what may fail alone"
_CLOSE: Final = "tx.close(): the connection is the inbox's"
_UNDONE: Final = "a statement before this one failed, and SQLite has rolled everything back"
_OVER: Final = (
    "tx was used after its handler was done: wait for everything that works on it before the handler returns or raises "
    "(asyncio.TaskGroup does, gather() does not when one of them fails)"
)


class Turn(Connection):
    """The synchronous side of what is lent: that of ``run_sync``, of sessions and of every statement.

    Attributes:
        lender: the connection whose transaction it is.
        guard: SQLite's.
        over: nothing is done on it any more.
    """

    def __init__(self, lender: OwnedConnection, sync: Connection) -> None:
        self.over = False
        self.lender = lender
        self.guard = lender.guard
        super().__init__(sync.engine, sync.connection, _has_events=True, _allow_revalidate=False)
        self.dispatch = sync.dispatch  # joining the engine's anew costs as much as a small statement
        self.begin()

    def _begin_impl(self, transaction: Any) -> None:
        """It has begun; listeners were told then."""

    def _execute_context(self, *given: Any, **options: Any) -> CursorResult[Any]:
        """Before SQLAlchemy looks for the driver's connection, which may be the pool's again."""
        if self.over:
            raise TransactionEnded(_OVER)
        return super()._execute_context(*given, **options)

    def commit(self) -> NoReturn:
        """Refused."""
        raise TransactionEnded(_COMMIT)

    def rollback(self) -> NoReturn:
        """Refused."""
        raise TransactionEnded(_ROLLBACK)

    def close(self) -> NoReturn:
        """Refused."""
        raise TransactionEnded(_CLOSE)

    def detach(self) -> NoReturn:
        """Refused."""
        raise TransactionEnded(_CLOSE)

    @property
    def connection(self) -> PoolProxiedConnection:
        """The driver's, for as long as the turn."""
        if self.over:
            raise TransactionEnded(_OVER)
        if self.guard is not None:
            self.guard.ask_anew()
        return super().connection


def watch(engine: Engine) -> None:
    """Have turns on its connections refuse what would end their transaction."""
    if event.contains(engine, "before_cursor_execute", _refuse_to_end):
        return
    event.listen(engine, "before_cursor_execute", _refuse_to_end)
    event.listen(engine, "commit", _refuse_commit)
    event.listen(engine, "rollback", _refuse_rollback)


def _refuse_to_end(connection: Connection, _cursor: object, statement: str, *_: object) -> None:
    if not isinstance(connection, Turn):
        return
    if connection.over:
        raise TransactionEnded(_OVER)
    guard = connection.guard
    if guard is not None and not guard.in_transaction:  # an OR ROLLBACK, and the handler swallowed its error
        raise TransactionEnded(_UNDONE)
    if (found := ending(statement)) is not None:
        raise TransactionEnded(f"{found}: the inbox ends the transaction when the handler has returned")


def _refuse_commit(connection: Connection) -> None:
    if isinstance(connection, Turn):
        raise TransactionEnded(_COMMIT)


def _refuse_rollback(connection: Connection) -> None:
    if isinstance(connection, Turn):
        raise TransactionEnded(_ROLLBACK)


class LentConnection(AsyncConnection):
    """What the handler gets as ``tx``.

    Raises:
        TransactionEnded: from ``commit``, ``rollback``, ``close`` and ``invalidate``, from every other way to end the
            transaction, and from everything once the handler has returned.
    """

    __slots__ = ()

    async def commit(self) -> NoReturn:
        """Refused: it would part the effect from its mark."""
        raise TransactionEnded(_COMMIT)

    async def rollback(self) -> NoReturn:
        """Refused: raise, and the inbox rolls back."""
        raise TransactionEnded(_ROLLBACK)

    async def close(self) -> NoReturn:
        """Refused: it is the inbox's connection."""
        raise TransactionEnded(_CLOSE)

    async def invalidate(self, exception: BaseException | None = None) -> NoReturn:
        """Refused: it is the inbox's connection."""
        raise TransactionEnded(_CLOSE) from exception


@contextmanager
def turn_on(owned: OwnedConnection) -> Iterator[LentConnection]:
    """A handler's turn on a connection in a transaction.

    Raises:
        TransactionEnded: the block tried to end it past everything that says so at once.
    """
    sync = owned.sync_connection
    assert sync is not None
    turn = Turn(owned, sync)
    try:
        yield LentConnection(owned.engine, turn)
    except Exception as exc:
        if was_refused(exc):
            told = "the handler tried to end the transaction, or to write after ending it, and SQLite has refused that"
            raise TransactionEnded(told) from exc
        raise
    finally:
        turn.over = True
        if turn.closed and not sync.closed:  # it broke, and only who noticed knows
            sync.invalidate()
