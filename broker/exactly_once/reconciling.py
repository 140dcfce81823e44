"""Reconciling: what was sent and never settled is sent again. Safe, because the inbox knows what was applied."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from broker.contracts.errors import ConsumerNotFound, InvalidOption, StreamNotFound
from broker.contracts.lanes import Lane, lane_consumer
from broker.contracts.options import in_range
from broker.contracts.subjects import matches
from broker.exactly_once.marks import check_names
from broker.lanes import records as parked
from broker.lanes.records import PARKED_STREAM
from broker.rescheduling import copies as later
from broker.rescheduling.copies import LATER_STREAM

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from broker.exactly_once.inbox import Inbox
    from broker.exactly_once.outbox import Outbox, Sent
    from broker.messages import StreamMessage
    from broker.stream_broker import StreamBroker

_PAGE: Final = 500


class Place(NamedTuple):
    """A stream that keeps messages between two attempts, and its pattern for one of a group's, or (``"*"``) for all."""

    stream: str
    of: Callable[[str, str, int | Literal["*"]], str]


_PLACES: Final = (Place(LATER_STREAM, later.places_of), Place(PARKED_STREAM, parked.places_of))


@dataclass(slots=True)
class Reconciled:
    """What became of the messages looked at.

    Attributes:
        settled: the inbox has them; they are not looked at again.
        dead: a dead letter of the consumer has them: that is somebody's decision from now on, and they are not looked
            at again, whether it is replayed or discarded.
        waiting: the stream has them, and the consumer has not got so far; or they wait for another attempt elsewhere,
            for one that is far away, or for their turn in a lane.
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

    It turns a loss on the server (a damaged disk, a deleted or purged stream) into delay. Messages that no filter of
    the consumer covers are others', and left alone.

    Args:
        outbox: where the messages came from.
        inbox: where the consumer records what it has applied.
        broker: on the server of the stream.
        stream: messages that it stored.
        consumer: the durable name of the consumer that is to apply each of them.
        older_than: seconds since they were sent; longer than the stream's duplicate window, or the server would drop
            what is sent again.

    Raises:
        InvalidOption: ``older_than`` is within the duplicate window; or the stream renames what it is sent
            (``subject_transform``), so that inbox and outbox know it by different names.
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
        await self._check_stream(older_than)
        floor, filters = await self._position()
        letters = self._broker.dead_letters.list(stream=self._stream, consumer=self._consumer)
        dead = {(letter.subject, letter.idempotency_key) async for letter in letters}
        result, before, last = Reconciled(), time.time() - older_than, None
        while page := await self._outbox.sent_before(before, self._stream, last, _PAGE):
            last = page[-1]
            applied = await self._inbox.applied(self._consumer, [(each.subject, each.key) for each in page])
            places = await self._elsewhere()
            settled, decided, again = [], [], []
            for each in page:
                if (each.subject, each.key) in applied:
                    settled.append(each.id)
                elif filters and not any(matches(pattern, each.subject) for pattern in filters):
                    continue
                elif (each.subject, each.key) in dead:
                    decided.append(each.id)
                elif (each.sequence > floor and await self._is_stored(each)) or (await self._is_kept(each, places)):
                    result.waiting += 1
                else:
                    again.append(each.id)
            await self._outbox.judge(settled=settled + decided, again=again)
            result.settled += len(settled)
            result.dead += len(decided)
            result.again += len(again)
        return result

    async def _check_stream(self, older_than: float) -> None:
        try:
            config = (await self._broker.streams.info(self._stream)).config
        except StreamNotFound:
            return
        check_names(config)
        if older_than <= (window := config.duplicate_window):
            told = f"older_than={older_than:g}: within the duplicate window of {window:g} s the server drops repeats"
            raise InvalidOption(told, option="older_than")

    async def _position(self) -> tuple[int, Sequence[str]]:
        """Up to which sequence the consumer has settled everything, and what it takes; 0 and nothing when not known."""
        try:
            info = await self._broker.consumers.info(self._stream, self._consumer)
        except StreamNotFound:
            return 0, ()
        except ConsumerNotFound:
            return 0, await self._of_lanes()
        return info.ack_floor, info.config.filters

    async def _of_lanes(self) -> Sequence[str]:
        """What an ordered group takes, by its consumer for a lane of the newest generation; nothing without one."""
        generations = len((await self._broker.streams.info(self._stream)).lane_counts)
        for generation in reversed(range(generations)):
            with suppress(ConsumerNotFound):
                name = lane_consumer(self._consumer, Lane(generation, 0))
                return (await self._broker.consumers.info(self._stream, name)).config.filters
        return ()

    async def _is_stored(self, sent: Sent) -> bool:
        """Whether the stream still has that message: after a loss its sequence may be another one's."""
        try:
            stored = await self._broker.streams.get_message(self._stream, sent.sequence)
        except StreamNotFound:
            return False
        if stored is None or stored.idempotency_key != sent.key:
            return False
        return stored.subject == sent.subject or stored.subject.endswith(f".{sent.subject}")  # in a lane

    async def _elsewhere(self) -> Sequence[Place]:
        """Where some of its messages wait for their next attempt: what does was settled in its stream."""
        return [place for place in _PLACES if await self._kept(place, "*") is not None]

    async def _is_kept(self, sent: Sent, places: Sequence[Place]) -> bool:
        for place in places:
            kept = await self._kept(place, sent.sequence)
            if kept is not None and kept.idempotency_key == sent.key:
                return True
        return False

    async def _kept(self, place: Place, sequence: int | Literal["*"]) -> StreamMessage | None:
        try:
            return await self._broker.streams.get_last(place.stream, place.of(self._stream, self._consumer, sequence))
        except StreamNotFound:
            return None
