"""A SQLite file that several worker processes write: durable on commit, one writer at a time."""

from __future__ import annotations

import sqlite3
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_OPEN_PATIENCE: Final = 10.0
"""Seconds to keep trying while other processes open the same file."""


def open_sqlite(path: Path, schema: str, *, busy_timeout: float = 5.0) -> sqlite3.Connection:
    """A connection in WAL mode with full sync, its schema present. One thread at a time may use it.

    Args:
        path: of the file; made when missing.
        schema: statements that may run again on a file that has it already.
        busy_timeout: seconds a statement waits for another writer before ``sqlite3.OperationalError``.

    Raises:
        OSError: there can be no such file.
    """
    deadline = time.monotonic() + _OPEN_PATIENCE
    try:
        db = sqlite3.connect(path, timeout=busy_timeout, isolation_level=None, check_same_thread=False)
    except sqlite3.OperationalError as exc:
        raise OSError(f"{path}: {exc}") from exc
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA foreign_keys = ON")
            # Else INSERT OR REPLACE deletes rows behind the back of triggers that forbid it.
            db.execute("PRAGMA recursive_triggers = ON")
            db.executescript(f"BEGIN IMMEDIATE; {schema} COMMIT;")
        except sqlite3.OperationalError as exc:
            # The switch to WAL does not honour the busy time-out when two processes make the file together.
            if db.in_transaction:
                db.execute("ROLLBACK")
            if "locked" not in str(exc) or time.monotonic() > deadline:
                db.close()
                raise
            time.sleep(0.02)
        else:
            return db


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All or nothing. Takes the write lock at once: a transaction that begins can finish.

    Raises:
        sqlite3.OperationalError: another writer held the file longer than the busy time-out; nothing happened.
    """
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
