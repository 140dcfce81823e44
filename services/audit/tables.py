"""The tables of the audit service. The database itself refuses to change, to remove and to leave out records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import (
    BigInteger,
    Column,
    LargeBinary,
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

RECORD: Final = Table(
    "audit_record",
    METADATA,
    Column("source", Text, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("record_id", Text, nullable=False),
    Column("recorded_at", BigInteger, nullable=False),
    Column("stream_seq", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("previous", LargeBinary, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    PrimaryKeyConstraint("source", "seq"),
    UniqueConstraint("source", "record_id"),
)
"""See ``services.audit.chain.Link``."""

HEAD: Final = Table(
    "audit_head",
    METADATA,
    Column("source", Text, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    PrimaryKeyConstraint("source"),
)
"""How far each chain goes: what an appender locks, and what shows that the end of a chain is missing."""

_NEXT: Final = "coalesce((SELECT max(seq) FROM audit_record WHERE source = NEW.source), 0) + 1"
_SQLITE: Final = f"""
CREATE TRIGGER audit_record_no_update BEFORE UPDATE ON audit_record
BEGIN SELECT RAISE(ABORT, 'audit_record is append-only'); END;

CREATE TRIGGER audit_record_no_delete BEFORE DELETE ON audit_record
BEGIN SELECT RAISE(ABORT, 'audit_record is append-only'); END;

CREATE TRIGGER audit_record_no_gap BEFORE INSERT ON audit_record WHEN NEW.seq <> {_NEXT}
BEGIN SELECT RAISE(ABORT, 'audit_record has no gaps'); END
"""
"""The last one also comes before INSERT OR REPLACE removes what is in its way."""
_POSTGRESQL: Final = f"""
CREATE OR REPLACE FUNCTION audit_record_refuse() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'audit_record is append-only'; END $$

CREATE OR REPLACE FUNCTION audit_record_next() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN IF NEW.seq <> {_NEXT} THEN RAISE EXCEPTION 'audit_record has no gaps'; END IF; RETURN NEW; END $$

CREATE TRIGGER audit_record_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_record
FOR EACH STATEMENT EXECUTE FUNCTION audit_record_refuse()

CREATE TRIGGER audit_record_no_gap BEFORE INSERT ON audit_record
FOR EACH ROW EXECUTE FUNCTION audit_record_next()
"""


def _refuse_changes(_: Table, connection: Connection, **__: object) -> None:
    statements = _SQLITE if connection.dialect.name == "sqlite" else _POSTGRESQL
    for statement in statements.strip().split("\n\n"):
        connection.exec_driver_sql(statement)


event.listen(RECORD, "after_create", _refuse_changes)
