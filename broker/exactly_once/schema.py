"""The tables. ``create`` makes them as they are here; the migrations lead to the same (a test compares)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    text,
)

if TYPE_CHECKING:
    from sqlalchemy import Connection

METADATA: Final = MetaData()

INBOX: Final = Table(
    "gamebroker_inbox",
    METADATA,
    Column("consumer", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("stream", Text, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("at", Double, nullable=False),
    PrimaryKeyConstraint("consumer", "subject", "key", name="gamebroker_inbox_pkey"),
    sqlite_with_rowid=False,
)
"""What was applied: by whom, which key, the SHA-256 of its body, where it was stored, when (seconds of Unix time)."""

Index("gamebroker_inbox_at", INBOX.c.consumer, INBOX.c.stream, INBOX.c.at)

OUTBOX: Final = Table(
    "gamebroker_outbox",
    METADATA,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("subject", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("ordering_key", Text),
    Column("headers", Text),
    Column("body", LargeBinary, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("due_at", Double, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("last_error", Text),
    Column("sent_at", Double),
    Column("stream", Text),
    Column("sequence", BigInteger),
    Column("repeats", Integer, nullable=False),
    Column("settled_at", Double),
    UniqueConstraint("subject", "key", name="gamebroker_outbox_key"),
    sqlite_autoincrement=True,
)
"""What is to be sent, and what was: where the stream put it, how often it was sent anew, when it was seen settled."""

_UNSENT: Final = text("sent_at IS NULL")
_NEW: Final = text("sent_at IS NULL AND attempts = 0")
_AGAIN: Final = text("sent_at IS NULL AND attempts > 0")
_UNSETTLED: Final = text("settled_at IS NULL")
Index("gamebroker_outbox_new", OUTBOX.c.id, sqlite_where=_NEW, postgresql_where=_NEW)
Index("gamebroker_outbox_again", OUTBOX.c.due_at, sqlite_where=_AGAIN, postgresql_where=_AGAIN)
Index("gamebroker_outbox_order", OUTBOX.c.ordering_key, OUTBOX.c.id, sqlite_where=_UNSENT, postgresql_where=_UNSENT)
Index("gamebroker_outbox_unsettled", OUTBOX.c.sent_at, sqlite_where=_UNSETTLED, postgresql_where=_UNSETTLED)

RELAY: Final = Table(
    "gamebroker_relay",
    METADATA,
    Column("name", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("until", Double, nullable=False),
    PrimaryKeyConstraint("name", name="gamebroker_relay_pkey"),
)
"""Who relays the outbox of a SQLite file, and until when if nothing more is heard."""

_ADVISORY_LOCK: Final = 0x67616D65
"""PostgreSQL: two processes that make the tables at once would trip over each other."""


def take_turn(connection: Connection) -> None:
    """Wait for whoever else makes tables right now, to the end of the transaction; SQLite's own lock does it there."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _ADVISORY_LOCK})


def create(connection: Connection) -> None:
    """Make the tables that are missing."""
    take_turn(connection)
    METADATA.create_all(connection)
