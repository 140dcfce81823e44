"""The tables of the mail service."""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    text,
)

METADATA: Final = MetaData()

LETTER: Final = Table(
    "mail_letter",
    METADATA,
    Column("player", Text, nullable=False),
    Column("letter_id", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("sent_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column("closed_at", BigInteger),
    PrimaryKeyConstraint("player", "letter_id"),
)
"""The letters, whole; times in nanoseconds of Unix time, ``closed_at`` of the claim or the expiry."""

WAITING: Final = text("state = 'waiting'")
"""In these words, so that the index is used."""
Index(
    "mail_letter_waiting",
    *(LETTER.c.expires_at, LETTER.c.player, LETTER.c.letter_id),
    sqlite_where=WAITING,
    postgresql_where=WAITING,
)

CLAIM: Final = Table(
    "mail_claim",
    METADATA,
    Column("player", Text, nullable=False),
    Column("claim_id", Text, nullable=False),
    Column("letter_id", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    PrimaryKeyConstraint("player", "claim_id"),
)
"""What became of each claim; written once."""

POSTING: Final = Table(
    "mail_posting",
    METADATA,
    Column("tx", Text, nullable=False),
    Column("n", Integer, nullable=False),
    Column("account", Text, nullable=False),
    Column("currency", Text, nullable=False),
    Column("amount", BigInteger, CheckConstraint("amount <> 0"), nullable=False),
    PrimaryKeyConstraint("tx", "n"),
)
"""What changed hands, by the id of its audit record; the lines of a transaction add up to zero."""
