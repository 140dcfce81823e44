"""Tables that rows are only added to: the database itself refuses to change and to remove what they hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import event

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, Table

_SQLITE: Final = (
    "CREATE TRIGGER {0}_no_update BEFORE UPDATE ON {0} BEGIN SELECT RAISE(ABORT, '{0} is append-only'); END",
    "CREATE TRIGGER {0}_no_delete BEFORE DELETE ON {0} BEGIN SELECT RAISE(ABORT, '{0} is append-only'); END",
)
_POSTGRESQL: Final = (
    """CREATE OR REPLACE FUNCTION {0}_refuse() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION '{0} is append-only'; END $$""",
    """CREATE TRIGGER {0}_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON {0}
    FOR EACH STATEMENT EXECUTE FUNCTION {0}_refuse()""",
)


def append_only(table: Table, *, sqlite: Sequence[str], postgresql: Sequence[str] = ()) -> None:
    """Have the database refuse changes to the table's rows, and their removal, from the day it is made.

    Args:
        table: a service's own.
        sqlite: statements of its own that follow. One of them refuses an INSERT OR REPLACE, which removes what is in
            its way and asks no trigger about it.
        postgresql: likewise; nothing there replaces rows unseen.
    """

    def refuse_changes(_: Table, connection: Connection, **__: object) -> None:
        common, own = (_SQLITE, sqlite) if connection.dialect.name == "sqlite" else (_POSTGRESQL, postgresql)
        for statement in (*(each.format(table.name) for each in common), *own):
            connection.exec_driver_sql(statement)

    event.listen(table, "after_create", refuse_changes)
