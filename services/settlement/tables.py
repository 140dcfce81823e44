"""The tables of the settlement service. The database itself refuses to change and to remove what was paid."""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
)

from services.append_only import append_only

METADATA: Final = MetaData()

SETTLEMENT: Final = Table(
    "settlement",
    METADATA,
    Column("battle_id", Text, nullable=False),
    Column("payload_hash", Text, nullable=False),
    Column("room", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("rules_version", Integer, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("worker", Text, nullable=False),
    Column("settled_at", Double, nullable=False),
    PrimaryKeyConstraint("battle_id"),
    sqlite_with_rowid=False,
)
"""The battles that were paid: for which result, where the stream had it, by whom, when (seconds of Unix time)."""

ENTRY: Final = Table(
    "entry",
    METADATA,
    Column("tx", Text, ForeignKey(SETTLEMENT.c.battle_id), nullable=False),
    Column("n", Integer, nullable=False),
    Column("account", Text, nullable=False),
    Column("currency", Text, nullable=False),
    Column("amount", BigInteger, CheckConstraint("amount <> 0"), nullable=False),
    PrimaryKeyConstraint("tx", "n"),
    UniqueConstraint("tx", "account", "currency"),
    # SQLite keeps a fraction as it is, whatever the column's type says.
    CheckConstraint("typeof(amount) = 'integer'").ddl_if(dialect="sqlite"),
    sqlite_with_rowid=False,
)
"""What was paid, by battle; the lines of one add up to zero."""

_NO_REPLACE: Final = (
    "CREATE TRIGGER {0}_no_replace BEFORE INSERT ON {0} WHEN EXISTS (SELECT 1 FROM {0} WHERE {1}) BEGIN SELECT {2}; END"
)
"""Comes before INSERT OR REPLACE removes what is in its way."""
# Workers insert it to find out whether it is there.
append_only(SETTLEMENT, sqlite=[_NO_REPLACE.format("settlement", "battle_id = NEW.battle_id", "RAISE(IGNORE)")])
_SAME: Final = "tx = NEW.tx AND (n = NEW.n OR (account = NEW.account AND currency = NEW.currency))"
append_only(ENTRY, sqlite=[_NO_REPLACE.format("entry", _SAME, "RAISE(ABORT, 'entry is append-only')")])
