"""Whose fault an error is: the database's, which is waited out, or the handler's, which becomes its outcome. No I/O."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Final

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from broker.exactly_once.errors import DatabaseContended, DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine import ExceptionContext

_DEPTH: Final = 8
"""How far an error's causes are followed."""
_CONTENDED: Final = frozenset({"40001", "40P01", "55P03"})
"""Serialization failure, deadlock, lock not available."""
_OUT_OF_ORDER: Final = ("53", "57P", "58", "25006")
"""Out of resources (disk full among them), shutting down or starting, system errors, a standby after a failover."""
_SQLITE_CONTENDED: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_SQLITE_OUT_OF_ORDER: Final = frozenset(
    {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}
)
_SQLITE_DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_OURS: Final = "gamebroker_ours"
"""On a driver's error: it came from the database that holds the marks."""
_PRIMARY: Final = 0xFF
"""SQLite's extended codes carry the plain one in their last byte."""


class OfTurn(DatabaseUnavailable):
    """A handler's own statement failed as if the database were in trouble. Whether it is, only the database knows.

    Attributes:
        told: what the handler raised.
    """

    def __init__(self, found: DatabaseUnavailable, told: Exception) -> None:
        super().__init__(str(found))
        self.told = told


def of_turn(error: Exception) -> OfTurn | None:
    """The trouble that a handler tells of while its connection is sound; ``None`` when it is none, or contention."""
    found = trouble(error, ours=False)
    return None if found is None or isinstance(found, DatabaseContended) else OfTurn(found, error)


def trouble(error: BaseException, *, ours: bool) -> DatabaseUnavailable | None:
    """The database's own trouble behind an error, ready to be raised; ``None`` when there is none.

    ``ours``: it befell our own statement or our connection broke. Otherwise a handler may have been talking to another
    database: a lost connection does not count then, and a code only if an engine of ours was told it.
    """
    if isinstance(error, DatabaseUnavailable):
        return error
    for each in causes(error):
        if isinstance(each, PoolTimeout) and ours:
            return DatabaseUnavailable(f"no connection to the database became free: {each}")
        if isinstance(each, DBAPIError):
            found = _of_driver(each.orig)
            if found is not None and (ours or getattr(each.orig, _OURS, False)):
                return found
            if ours and (each.connection_invalidated or _is_lost(each)):
                return DatabaseUnavailable(f"the database cannot be reached: {_first_line(each.orig)}")
    if ours and isinstance(error, OSError):
        return DatabaseUnavailable(f"the database cannot be reached: {_first_line(error)}")
    return None


def note_ours(context: ExceptionContext) -> None:
    """SQLAlchemy's ``handle_error`` of an engine on which we work."""
    setattr(context.original_exception, _OURS, True)


def is_damage(error: BaseException) -> bool:
    """Whether the file is no SQLite database, or no longer a whole one."""
    return any(getattr(each, "sqlite_errorcode", 0) & _PRIMARY in _SQLITE_DAMAGED for each in causes(error))


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what it came from, as far as that is followed."""
    level: list[BaseException] = [error]
    for _ in range(_DEPTH):
        yield from level
        level = [each for one in level for each in (one.__cause__, one.__context__) if each is not None]


def _of_driver(error: BaseException | None) -> DatabaseUnavailable | None:
    """What a code says; ``None`` when it blames the statement, or there is none."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is not None:
        if code & _PRIMARY in _SQLITE_CONTENDED:
            return DatabaseContended(f"the database is locked: {_first_line(error)}")
        if code & _PRIMARY in _SQLITE_OUT_OF_ORDER:
            return DatabaseUnavailable(f"the database file cannot be written: {_first_line(error)}")
        return None
    state = getattr(error, "sqlstate", None) or ""
    if state in _CONTENDED:
        return DatabaseContended(f"the transaction lost against another ({state}): {_first_line(error)}")
    if state.startswith(_OUT_OF_ORDER):
        return DatabaseUnavailable(f"the database takes no part now ({state}): {_first_line(error)}")
    return None


def _is_lost(error: DBAPIError) -> bool:
    """Whether a driver's error without a code, or one of class 08, tells of the connection."""
    state = getattr(error.orig, "sqlstate", None)
    told = getattr(error.orig, "sqlite_errorcode", None)
    lost = isinstance(error, OperationalError | InterfaceError) and state is None and told is None
    return lost or (state or "").startswith("08")


def _first_line(error: BaseException | None) -> str:
    return str(error).strip().split("\n", 1)[0]
