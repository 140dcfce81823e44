"""Migrating with Alembic: the same tables as ``create`` makes, step by step and remembered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from broker.exactly_once import schema
from broker.exactly_once.databases import Database
from broker.exactly_once.schema import METADATA
from broker.exactly_once.trouble import trouble

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncEngine

VERSION_TABLE: Final = "gamebroker_alembic_version"
"""Apart from your own migrations' table."""


def as_ours(name: str | None, kind: str, _: Any) -> bool:
    """Whether a table of the database belongs to us; the others are none of the migrations' business."""
    return kind != "table" or name in METADATA.tables


async def upgrade(database: str | AsyncEngine, revision: str = "head") -> None:
    """Bring the tables up to a revision, in one transaction. What ``create`` has made is taken as it is.

    Any number of processes may do it at once.

    Raises:
        ImportError: Alembic is not installed (extra ``sql``).
        DatabaseUnavailable: it cannot be reached; nothing was changed.
    """
    from alembic import command  # noqa: PLC0415 - only who migrates needs it
    from alembic.config import Config  # noqa: PLC0415 - likewise

    def run(connection: Connection) -> None:
        config = Config()
        config.set_main_option("script_location", "broker.exactly_once:migrations")
        config.attributes["connection"] = connection
        command.upgrade(config, revision)

    opened = Database(database)
    try:
        async with opened.engine.begin() as connection:
            if opened.kind == "sqlite":
                await connection.exec_driver_sql("BEGIN IMMEDIATE")
            await connection.run_sync(schema.take_turn)
            await connection.run_sync(run)
    except Exception as exc:
        raise (trouble(exc, ours=True) or exc) from exc
    finally:
        await opened.close()
