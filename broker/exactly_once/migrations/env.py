"""What Alembic runs: on the connection that ``upgrade`` hands in, or on ``sqlalchemy.url`` of an alembic.ini."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from alembic import context

from broker.exactly_once.databases import Database
from broker.exactly_once.migrating import VERSION_TABLE, as_ours
from broker.exactly_once.schema import METADATA

if TYPE_CHECKING:
    from sqlalchemy import Connection


def run(connection: Connection) -> None:
    """Every step that is missing, in the connection's transaction."""
    context.configure(
        connection=connection, target_metadata=METADATA, version_table=VERSION_TABLE, include_name=as_ours
    )
    with context.begin_transaction():
        context.run_migrations()


async def run_on_url(url: str) -> None:
    """The same on a database of its own."""
    database = Database(url)
    try:
        async with database.engine.begin() as connection:
            await connection.run_sync(run)
    finally:
        await database.close()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    asyncio.run(run_on_url(context.config.get_main_option("sqlalchemy.url") or ""))
