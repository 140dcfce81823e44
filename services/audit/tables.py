"""The tables of the audit service. The database itself refuses to change, to remove and to leave out records."""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
)

from services.append_only import append_only

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
append_only(
    RECORD,
    # Also comes before INSERT OR REPLACE removes what is in its way.
    sqlite=[
        f"""CREATE TRIGGER audit_record_no_gap BEFORE INSERT ON audit_record WHEN NEW.seq <> {_NEXT}
        BEGIN SELECT RAISE(ABORT, 'audit_record has no gaps'); END""",
    ],
    postgresql=[
        f"""CREATE OR REPLACE FUNCTION audit_record_next() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN IF NEW.seq <> {_NEXT} THEN RAISE EXCEPTION 'audit_record has no gaps'; END IF; RETURN NEW; END $$""",
        """CREATE TRIGGER audit_record_no_gap BEFORE INSERT ON audit_record
        FOR EACH ROW EXECUTE FUNCTION audit_record_next()""",
    ],
)
