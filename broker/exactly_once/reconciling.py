"""Reconciling: what was sent and never settled is sent again. Safe, because the inbox knows what was applied."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from broker.contracts.errors import ConsumerNotFound, InvalidOption, StreamNotFound
from broker.contracts.options import in_range

if TYPE_CHECKING:
    from broker.exactly_once.inbox import Inbox
    from broker.exactly_once.outbox import Outbox, Sent
    from broker.stream_broker import StreamBroker

_PAGE: Final = 500


@dataclass(slots=True)
class Reconciled:
    """What became of the messages looked at.

    Attributes:
        settled: the inbox has them; they are not looked at again.
        dead: a dead letter of the consumer has them: somebody's decision.
        waiting: the stream has them, and the consumer has not got so far.
        again: lost on their way, whoever lost them; the relay sends them again.
    """

    settled: int = 0
    dead: int = 0
    waiting: int = 0
    again: int = 0


async def reconcile(
    outbox: Outbox,
    inbox: Inbox,
    broker: StreamBroker,
    *,
    stream: str,
    consumer: str,
    older_than: float = 900.0,
) -> Reconciled:
    """Send again what ``stream`` stored and ``consumer`` never applied. To be called now and then, by one at a time.

    It turns a loss on the server (a damaged disk, a deleted or purged stream) into delay.

    Args:
        outbox: where the messages came from.
        inbox: where the consumer records what it has applied.
        broker: on the server of the stream.
        stream: messages that it stored.
        consumer: the durable name of the consumer that is to apply each of them.
        older_than: seconds since they were sent; longer than the stream's duplicate window, or the server would drop
            what is sent again.

    Raises:
        InvalidOption: ``older_than`` is within the duplicate window.
        DatabaseUnavailable: one of the databases cannot be reached; what was decided before stays so.
        ConnectionLost, RequestTimeout, PermissionDenied: the server could not be asked.
    """
    in_range("older_than", older_than, 0)
    reconciling = _Reconciling(outbox, inbox, broker, stream, consumer)
    return await reconciling.run(older_than)


class _Reconciling:
    def __init__(self, outbox: Outbox, inbox: Inbox, broker: StreamBroker, stream: str, consumer: str) -> None:
        self._outbox = outbox
        self._inbox = inbox
        self._broker = broker
        self._stream = stream
        self._consumer = consumer

    async def run(self, older_than: float) -> Reconciled:
        floor = await self._floor(older_than)
        letters = self._broker.dead_letters.list(stream=self._stream, consumer=self._consumer)
        dead = {(letter.subject, letter.idempotency_key) async for letter in letters}
        result, before, last = Reconciled(), time.time() - older_than, None
        while page := await self._outbox.sent_before(before, self._stream, last, _PAGE):
            last = page[-1]
            applied = await self._inbox.applied(self._consumer, [(each.subject, each.key) for each in page])
            settled, again = [], []
            for each in page:
                if (each.subject, each.key) in applied:
                    settled.append(each.id)
                elif (each.subject, each.key) in dead:
                    result.dead += 1
                elif each.sequence > floor and await self._is_stored(each):
                    result.waiting += 1
                else:
                    again.append(each.id)
            await self._outbox.judge(settled=settled, again=again)
            result.settled += len(settled)
            result.again += len(again)
        return result

    async def _floor(self, older_than: float) -> int:
        """Up to which sequence the consumer has settled everything; 0 when that is not known."""
        try:
            window = (await self._broker.streams.info(self._stream)).config.duplicate_window
            if older_than <= window:
                told = (
                    f"older_than={older_than:g}: within the duplicate window of {window:g} s the server drops repeats"
                )
                raise InvalidOption(told, option="older_than")
            return (await self._broker.consumers.info(self._stream, self._consumer)).ack_floor
        except (StreamNotFound, ConsumerNotFound):
            return 0

    async def _is_stored(self, sent: Sent) -> bool:
        """Whether the stream still has that message: after a loss its sequence may be another one's."""
        try:
            stored = await self._broker.streams.get_message(self._stream, sent.sequence)
        except StreamNotFound:
            return False
        if stored is None or stored.idempotency_key != sent.key:
            return False
        return stored.subject == sent.subject or stored.subject.endswith(f".{sent.subject}")  # in a lane
