"""What can go wrong between a message and the database that holds its effect."""

from __future__ import annotations

from broker.contracts.errors import BrokerError, InvalidKey, InvalidOption


class DatabaseUnavailable(BrokerError):
    """The database cannot be reached, or takes no writes now. Nothing is known to have happened; try again later."""


class DatabaseContended(DatabaseUnavailable):
    """The transaction lost against others: a deadlock, a serialization failure, a lock held too long. Try it again."""


class SchemaMissing(BrokerError):
    """The tables are not there: ``await inbox.create()`` makes them, and so do the shipped migrations."""


class JournalFull(BrokerError):
    """So much waits in the journal that it takes nothing more until the server has some of it."""


class TransactionEnded(BrokerError):
    """The transaction that belongs to the inbox ended before its time, so nothing of it may count as done.

    A handler must neither commit nor roll back ``tx``, nor return after a statement on it failed; ``tx.begin_nested()``
    is what may fail and be rolled back alone.
    """


class RetentionTooShort(InvalidOption):
    """The inbox would forget a key while its message can still come again."""


class KeyConflict(InvalidKey):
    """The outbox holds another message under that key; the key names one effect, and this is a different one."""
