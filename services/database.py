"""The database of a worker that decides by ``broker.exactly_once``: a SQLite file, or PostgreSQL by URL."""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import inspect, text

from broker.exactly_once import Inbox, Outbox, SchemaMissing

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator

    from sqlalchemy import Connection, MetaData

log = logging.getLogger("services.database")

_PATIENCE: Final = 10.0
_POLL: Final = 0.02
_ONE_MAKER: Final = text("SELECT pg_advisory_xact_lock(0x73657276)")
"""PostgreSQL: two processes that make the tables at once would trip over each other."""


def add_database_option(parser: argparse.ArgumentParser, default: str) -> None:
    """``--database``; a URL with a password in it belongs into DATABASE_URL, not on a command line."""
    parser.add_argument(
        "--database",
        default=os.environ.get("DATABASE_URL", default),
        metavar="FILE-OR-URL",
        help=f"SQLite file, or postgresql://...; shared by all workers; default DATABASE_URL, else {default}",
    )


def database_url(told: str) -> str:
    """What ``--database`` says, as a URL."""
    return told if "://" in told else f"sqlite:///{told}"


@asynccontextmanager
async def opened(database: str, tables: MetaData, *, create: bool = True) -> AsyncIterator[tuple[Inbox, Outbox]]:
    """An inbox and an outbox on one database, with their tables and the service's own.

    Args:
        database: a file or a URL.
        tables: the service's.
        create: make what is missing, instead of refusing.

    Raises:
        DatabaseUnavailable: it cannot be reached, or there can be no such file.
        SchemaMissing: there are no such tables, and none are to be made.
        OSError: there is no such file, and none is to be made; or there is no directory for it.
    """
    _check_place(database, create=create)
    async with Inbox(database_url(database)) as inbox:
        outbox = Outbox(inbox.engine)
        if create:
            await outbox.create()
            async with outbox.transaction() as tx:
                await tx.run_sync(_create, tables)
        else:
            await inbox.check()
            async with inbox.engine.connect() as connection:
                await connection.run_sync(_check, tables)
        yield inbox, outbox


async def relayed(outbox: Outbox, *, patience: float = _PATIENCE) -> None:
    """Return when the outbox is sent, by whichever relay does it, or is not so many seconds later.

    What stays then is what a stream refuses, or what others commit all the time. It is told in the log, and goes out
    with the next relay.

    Raises:
        DatabaseUnavailable: it cannot be reached.
    """
    clock = asyncio.get_running_loop().time
    until = clock() + patience
    while left := await outbox.waiting():
        if clock() > until:
            log.warning("%d messages stay in the outbox until they can be sent", left)
            return
        await asyncio.sleep(_POLL)


def _check_place(database: str, *, create: bool) -> None:
    if "://" in database:
        return
    path = Path(database)
    if not path.parent.is_dir():  # SQLite would not say which file it cannot open
        raise FileNotFoundError(f"there is no directory for {database}")
    if not create and not path.is_file():  # SQLite would make an empty one, in which nothing is wrong
        raise FileNotFoundError(f"there is no file {database}")


def _create(connection: Connection, tables: MetaData) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(_ONE_MAKER)
    tables.create_all(connection)


def _check(connection: Connection, tables: MetaData) -> None:
    if missing := sorted(tables.tables.keys() - set(inspect(connection).get_table_names())):
        raise SchemaMissing(f"no table {', '.join(missing)}: this is another service's database")
