"""The audit worker: the appender of all records, each once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from broker import DecodeError, InvalidSubject
from services.audit.journal import RecordConflict, Told
from services.events import AUDIT_CONSUMER, AuditRecord, audit_source
from services.worker import take

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from broker import Consumption, StreamBroker, StreamMessage
    from broker.exactly_once import Inbox
    from services.audit.journal import AuditJournal
    from services.connection import Ensure

_BATCH: Final = 100
_BATCH_TIMEOUT: Final = 0.02


class AuditWorker:
    """Consumes records and appends them, a batch in one transaction.

    Args:
        broker: that is connected.
        journal: what it appends to.
        inbox: of the journal's database.
        ack_wait: seconds until a dead worker's messages go to others.
        ensure: whether the consumer is there already.
    """

    def __init__(
        self,
        broker: StreamBroker,
        journal: AuditJournal,
        inbox: Inbox,
        *,
        ack_wait: float = AUDIT_CONSUMER.ack_wait,
        ensure: Ensure = "verify",
    ) -> None:
        self._broker = broker
        self._journal = journal
        self._inbox = inbox
        self._ack_wait = ack_wait
        self._ensure: Ensure = ensure
        self._consumption: Consumption | None = None

    async def start(self) -> Consumption:
        """Begin to work."""
        self._consumption = await take(
            self._broker,
            AUDIT_CONSUMER,
            self.append,
            ack_wait=self._ack_wait,
            ensure=self._ensure,
            inbox=self._inbox,
            # One after the other: who appends to a chain waits for who did before.
            concurrency=1,
            batch_size=_BATCH,
            batch_timeout=_BATCH_TIMEOUT,
            on_error={DecodeError: "dead_letter", InvalidSubject: "dead_letter", RecordConflict: "dead_letter"},
        )
        return self._consumption

    async def append(self, messages: Sequence[StreamMessage], tx: AsyncConnection) -> None:
        """Append what services told in the order of the stream, chain by chain: no two workers lock in circles."""
        told: dict[str, list[Told]] = {}
        for message in sorted(messages, key=lambda message: message.sequence):
            record = message.decode(AuditRecord)
            each = Told(record.record_id, message.data, message.sequence)
            told.setdefault(audit_source(message.subject), []).append(each)
        for source in sorted(told):
            await self._journal.append(tx, source, told[source])

    async def drain(self) -> None:
        """Finish what is in hand."""
        if self._consumption is not None:
            await self._consumption.drain()

    async def abort(self) -> None:
        """There is nothing to let go of; what was in hand is redelivered."""
