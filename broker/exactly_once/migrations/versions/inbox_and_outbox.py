"""The inbox, the outbox, and who relays it."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0001"
down_revision: Final = None
branch_labels: Final = ("gamebroker",)
depends_on: Final = None

_UNSENT: Final = sa.text("sent_at IS NULL")
_NEW: Final = sa.text("sent_at IS NULL AND attempts = 0")
_AGAIN: Final = sa.text("sent_at IS NULL AND attempts > 0")
_UNSETTLED: Final = sa.text("settled_at IS NULL")


def upgrade() -> None:
    """Make what is missing: ``inbox.create()`` may have been here before."""
    op.create_table(
        "gamebroker_inbox",
        sa.Column("consumer", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("stream", sa.Text, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("consumer", "subject", "key", name="gamebroker_inbox_pkey"),
        sqlite_with_rowid=False,
        if_not_exists=True,
    )
    op.create_index("gamebroker_inbox_at", "gamebroker_inbox", ["consumer", "stream", "at"], if_not_exists=True)
    op.create_table(
        "gamebroker_outbox",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("ordering_key", sa.Text),
        sa.Column("headers", sa.Text),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("due_at", sa.Double, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("last_error", sa.Text),
        sa.Column("sent_at", sa.Double),
        sa.Column("stream", sa.Text),
        sa.Column("sequence", sa.BigInteger),
        sa.Column("repeats", sa.Integer, nullable=False),
        sa.Column("settled_at", sa.Double),
        sa.UniqueConstraint("subject", "key", name="gamebroker_outbox_key"),
        sqlite_autoincrement=True,
        if_not_exists=True,
    )
    for name, columns, where in (
        ("gamebroker_outbox_new", ["id"], _NEW),
        ("gamebroker_outbox_again", ["due_at"], _AGAIN),
        ("gamebroker_outbox_order", ["ordering_key", "id"], _UNSENT),
        ("gamebroker_outbox_unsettled", ["sent_at"], _UNSETTLED),
    ):
        op.create_index(
            name, "gamebroker_outbox", columns, sqlite_where=where, postgresql_where=where, if_not_exists=True
        )
    op.create_table(
        "gamebroker_relay",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("until", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("name", name="gamebroker_relay_pkey"),
        if_not_exists=True,
    )


def downgrade() -> None:
    """Remove everything, the memory of what was applied included."""
    for table in ("gamebroker_relay", "gamebroker_outbox", "gamebroker_inbox"):
        op.drop_table(table)
