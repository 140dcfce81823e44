"""Exactly-once effect: an inbox and an outbox in your database (extra ``sql``: SQLite or PostgreSQL, SQLAlchemy 2)."""

from importlib import import_module

try:
    for module in ("greenlet", "sqlalchemy.ext.asyncio"):
        import_module(module)
except ImportError as missing:
    raise ImportError(f"broker.exactly_once needs SQLAlchemy 2: pip install 'gamebroker[sql]' ({missing})") from missing

from broker.exactly_once.errors import (
    DatabaseContended,
    DatabaseUnavailable,
    JournalFull,
    KeyConflict,
    RetentionTooShort,
    SchemaMissing,
    TransactionEnded,
)
from broker.exactly_once.inbox import Inbox
from broker.exactly_once.journal import Journal
from broker.exactly_once.migrating import upgrade
from broker.exactly_once.outbox import Outbox
from broker.exactly_once.reconciling import Reconciled, reconcile
from broker.exactly_once.relaying import Relay
from broker.exactly_once.stats import InboxStats, OutboxStats
from broker.exactly_once.transactions import session_on

__all__ = [
    "DatabaseContended",
    "DatabaseUnavailable",
    "Inbox",
    "InboxStats",
    "Journal",
    "JournalFull",
    "KeyConflict",
    "Outbox",
    "OutboxStats",
    "Reconciled",
    "Relay",
    "RetentionTooShort",
    "SchemaMissing",
    "TransactionEnded",
    "reconcile",
    "session_on",
    "upgrade",
]
