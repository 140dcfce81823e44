"""What an inbox and an outbox count. Numbers only grow."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class InboxStats:
    """Counted by one ``Inbox`` since it was made.

    Attributes:
        applied: messages whose effect was committed.
        duplicates: repeats that were acked without running the handler.
        conflicts: keys that came with another body; each is a dead letter.
        contended: transactions that lost against others and were tried again.
        outages: attempts that found no database.
        pruned: marks removed.
    """

    applied: int = 0
    duplicates: int = 0
    conflicts: int = 0
    contended: int = 0
    outages: int = 0
    pruned: int = 0


@dataclass(slots=True)
class OutboxStats:
    """Counted by one ``Outbox`` since it was made.

    Attributes:
        enqueued: messages written, committed or not.
        repeats: keys that were there already with the same body.
        sent: messages that their stream has stored, those it had already included.
        duplicates: of these, what the stream had already.
        failed: attempts that did not get through.
        pruned: rows removed.
    """

    enqueued: int = 0
    repeats: int = 0
    sent: int = 0
    duplicates: int = 0
    failed: int = 0
    pruned: int = 0
