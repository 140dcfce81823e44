"""Keeps what waits for its turn on the server, so that whoever takes a lane over knows it."""

from __future__ import annotations

import asyncio
import logging
from copy import copy
from typing import TYPE_CHECKING, Final, Self, cast
from uuid import uuid4

from broker.contracts.envelopes import Expect, expecting, renamed
from broker.contracts.errors import ConfigDrift, NoStream, PermissionDenied, StreamNotFound
from broker.contracts.options import ConsumerOptions
from broker.lanes.parking import Waiting
from broker.lanes.records import (
    PARKED_STREAM,
    again_record,
    attempt_at,
    group_subject,
    is_revived,
    parked_delivery,
    parked_record,
    parked_stream_options,
    parked_subject,
    turn_of,
    waiting_of,
    when_made,
)
from broker.reading import Reader

if TYPE_CHECKING:
    from broker.contracts.admin import StreamInfo
    from broker.contracts.backend import StreamBackend
    from broker.contracts.codec import Codec
    from broker.contracts.envelopes import Delivery, Receipt, Record, StoredMessage
    from broker.contracts.lanes import Lane
    from broker.contracts.options import Start
    from broker.dead_letters import DeadLetters
    from broker.enqueueing import Enqueuer

log = logging.getLogger("broker.lanes")

_STORE_TIMEOUT: Final = 10.0
_PASSES: Final = 3
"""How often what was written meanwhile is read at most: others of the group write all the time."""


class Parked:
    """The parked messages of one group, in ``GAMEBROKER_PARKED``.

    Attributes:
        made: when the group's stream was made. What waits in a former stream of its name is none of its business.
        keeps_settled: whether that stream keeps messages that were settled, until they are removed.

    Every call may raise what the backend raises; what was asked for is then not certain.
    """

    def __init__(
        self,
        backend: StreamBackend,
        enqueuer: Enqueuer,
        codec: Codec,
        letters: DeadLetters,
        *,
        stream: str,
        queue: str,
    ) -> None:
        self._backend = backend
        self._enqueuer = enqueuer
        self._codec = codec
        self._letters = letters
        self._stream = stream
        self._queue = queue
        self.made = 0
        self.keeps_settled = True

    def of(self, stream: StreamInfo) -> Self:
        """The same, of the stream that has the name now."""
        twin = copy(self)
        twin.made = when_made(stream)
        twin.keeps_settled = stream.config.retention == "limits"
        return twin

    async def prepare(self, replicas: int) -> None:
        """Make sure of the stream, with as many replicas as the messages have.

        Raises:
            ConfigDrift: a stream of that name exists and cannot keep what waits.
        """
        try:
            await self._backend.create_stream(parked_stream_options(replicas))
        except ConfigDrift as drift:
            if {"subjects", "max_msgs_per_subject", "discard"} & set(drift.differences):
                raise

    async def load(self, lane: int, lanes: int) -> list[Waiting]:
        """Everything of one lane that waits; what is left of a former stream is removed.

        One that is replaced while this reads (somebody replays its dead letter) is found in neither form by a single
        pass, and its key would go on without it: what was written meanwhile is read as well.
        """
        every: dict[tuple[int, str, int], Waiting] = {}
        position, start = 0, cast("Start", "last_per_subject")
        for _ in range(_PASSES):
            newest = await self._newest()
            if newest <= position:
                break
            for each in await self._read(start, newest):
                every[each.made, each.key, each.order] = each
            position, start = newest, newest + 1
        found = [each for each in every.values() if each.lane(lanes) == lane]
        for each in found:
            if each.made < self.made:
                await self.release(each)
        return [each for each in found if each.made == self.made]

    async def _newest(self) -> int:
        """The number of the last record of this group, 0 when there is none."""
        of_group = f"{group_subject(self._stream, self._queue)}.>"
        try:
            stored = await self._backend.get_message(PARKED_STREAM, sequence=None, last_of=of_group, fresh=True)
        except StreamNotFound:
            return 0
        return 0 if stored is None else stored.sequence

    async def _read(self, start: Start, end: int) -> list[Waiting]:
        """What waits in the records from there to there."""
        filters = (f"{group_subject(self._stream, self._queue)}.>",)
        options = ConsumerOptions(filters=filters, stream=PARKED_STREAM, acks=False, start=start)
        try:
            async with Reader(options, end, backend=self._backend, codec=self._codec) as stored:
                every = [waiting_of(message.delivery) async for message in stored]
        except (NoStream, StreamNotFound):
            return []
        return [each for each in every if each is not None]

    async def park(self, delivery: Delivery, *, attempts: int, due: float = 0.0, letter: int | None = None) -> Waiting:
        """Keep it; what was kept of it before is replaced. Returned means stored.

        Raises:
            SequenceConflict: with a letter only: since this attempt began, something else was kept of it, or removed. A
                letter may be replayed before its message is parked, and that must not be undone.
        """
        key, order = delivery.lane_key or "", delivery.sequence
        record = parked_record(self._subject(key, order), delivery, attempts=attempts, due=due, letter=letter)
        if letter is not None:
            record = expecting(record, Expect(last_subject_sequence=turn_of(delivery) or 0))
        receipt = await self._store(record)
        if receipt.duplicate and await self._record(receipt.sequence) is None:
            # It waited exactly so before, was released, and is to wait once more.
            receipt = await self._store(renamed(record, f"{record.message_id}:{uuid4().hex}"))
        return Waiting(key, order, receipt.sequence, attempts=attempts, due=due, letter=letter, made=self.made)

    async def release(self, waiting: Waiting) -> None:
        """It does not wait any more."""
        await self._backend.delete_message(PARKED_STREAM, waiting.sequence)

    async def send(self, waiting: Waiting, lane: Lane, consumer: str) -> bool:
        """Its next attempt goes into the lane that ``consumer`` delivers; ``False`` when somebody removed it.

        While an attempt at the same turn is still to come, no second one is sent.

        Raises:
            StreamFull, PayloadTooLarge: the stream does not take it.
        """
        kept = await self._record(waiting.sequence)
        if kept is None:
            return False
        record = again_record(self._stream, self._queue, lane, waiting, kept)
        receipt = await self._store(record)
        if receipt.duplicate and await self._has_passed(receipt.sequence, consumer):
            # It came before its turn (an earlier one was handed out once more), or got lost with an ack.
            await self._store(renamed(record, f"{record.message_id}:{uuid4().hex}"))
        return True

    async def recall(self, copied: Delivery) -> Delivery | None:
        """The message that the lane handed out a next attempt at; ``None`` when it does not wait any more.

        What was removed from its stream meanwhile (purged, expired, pushed out) is not tried again.
        """
        turn = turn_of(copied)
        kept = await self._record(turn) if turn else None
        if kept is None:
            return None
        whole = attempt_at(kept, copied)
        if whole is None or is_revived(kept) or not self.keeps_settled or await self._is_stored(whole.sequence):
            return whole
        await self._backend.delete_message(PARKED_STREAM, kept.sequence)
        self._backend.stats.terminated += 1
        log.info("%s of %s was removed while it waited: it is not tried again", whole.sequence, self._stream)
        return None

    async def as_delivery(self, waiting: Waiting) -> Delivery | None:
        """What waits, as if it were handed out once more; ``None`` when it does not wait any more."""
        kept = await self._record(waiting.sequence)
        return None if kept is None else parked_delivery(self._stream, self._queue, kept)

    async def _record(self, sequence: int) -> StoredMessage | None:
        try:
            return await self._backend.get_message(PARKED_STREAM, sequence=sequence, last_of=None, fresh=True)
        except StreamNotFound:
            return None

    async def _is_stored(self, sequence: int) -> bool:
        """Whether the stream still has it; a role that may not look takes it that it has."""
        try:
            return (
                await self._backend.get_message(self._stream, sequence=sequence, last_of=None, fresh=True) is not None
            )
        except StreamNotFound:
            return False
        except PermissionDenied:
            return True

    async def find(self, key: str, order: int) -> Waiting | None:
        """That message as it waits now, if it does."""
        subject = self._subject(key, order)
        try:
            stored = await self._backend.get_message(PARKED_STREAM, sequence=None, last_of=subject, fresh=True)
        except StreamNotFound:
            return None
        return None if stored is None else waiting_of(stored)

    def _subject(self, key: str, order: int) -> str:
        return parked_subject(self._stream, self._queue, self.made, key, order)

    async def _has_passed(self, sequence: int, consumer: str) -> bool:
        """Whether the lane, which never goes back and has one message in hand, is beyond that place."""
        info = await self._backend.consumer_info(self._stream, consumer)
        return sequence < info.delivered_sequence or (sequence == info.delivered_sequence and not info.ack_pending)

    async def _store(self, record: Record) -> Receipt:
        return await self._enqueuer.store(record, deadline=asyncio.get_running_loop().time() + _STORE_TIMEOUT)

    async def decided(self, waiting: Waiting) -> Waiting | None:
        """What became of one whose dead letter somebody had to decide about.

        Itself while nobody has; as it waits now when it was replayed; ``None`` when it was discarded (and forgotten).
        """
        now = await self.find(waiting.key, waiting.order)
        if now is None or now.letter is None:
            return now
        if await self._letters.get(now.letter) is not None:
            return waiting
        # Replaying parks it anew first and removes the letter then: look again before believing that it was discarded.
        now = await self.find(waiting.key, waiting.order)
        if now is not None and now.letter is not None:
            await self.release(now)
            return None
        return now
