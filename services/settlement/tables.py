"""The tables of the settlement service. The database itself refuses to change and to remove what was paid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

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
    event,
)

if TYPE_CHECKING:
    from sqlalchemy import Connection

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

_SQLITE: Final = """
CREATE TRIGGER {table}_no_update BEFORE UPDATE ON {table}
BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END;

CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table}
BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END;

CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table} WHEN EXISTS (SELECT 1 FROM {table} WHERE {same})
BEGIN SELECT {refusal}; END
"""
"""The last one comes before INSERT OR REPLACE removes what is in its way."""
_SAME: Final = {
    "settlement": "battle_id = NEW.battle_id",
    "entry": "tx = NEW.tx AND (n = NEW.n OR (account = NEW.account AND currency = NEW.currency))",
}
_REFUSAL: Final = {
    # Workers insert it to find out whether it is there.
    "settlement": "RAISE(IGNORE)",
    "entry": "RAISE(ABORT, 'entry is append-only')",
}
_POSTGRESQL: Final = """
CREATE OR REPLACE FUNCTION {table}_refuse() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION '{table} is append-only'; END $$

CREATE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}
FOR EACH STATEMENT EXECUTE FUNCTION {table}_refuse()
"""


def _refuse_changes(table: Table, connection: Connection, **_: object) -> None:
    name = table.name
    statements = _SQLITE if connection.dialect.name == "sqlite" else _POSTGRESQL
    for statement in statements.format(table=name, same=_SAME[name], refusal=_REFUSAL[name]).strip().split("\n\n"):
        connection.exec_driver_sql(statement)


for _table in (SETTLEMENT, ENTRY):
    event.listen(_table, "after_create", _refuse_changes)
