"""Dead letters: what gave up, kept with its reason until somebody replays or discards it.

One stream holds them all, made when the first consumption that may need it starts.
"""

from __future__ import annotations

import asyncio
import logging
from enum import Enum
from typing import TYPE_CHECKING, Final

from broker.contracts.checks import check_kind
from broker.contracts.errors import ConfigDrift, InvalidOption, NoStream, PayloadTooLarge, StreamError, StreamNotFound
from broker.contracts.headers import NO_HEADERS
from broker.contracts.options import ConsumerOptions, StreamOptions, in_range
from broker.contracts.subjects import matches, subscribe_pattern
from broker.lanes.records import revived_record
from broker.letters import PREFIX, DeadLetter, letter_of, record_of, revived
from broker.reading import Reader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from broker.contracts.backend import StreamBackend
    from broker.contracts.codec import Codec
    from broker.contracts.envelopes import Delivery, Record
    from broker.enqueueing import Enqueuer

log = logging.getLogger("broker.dead_letters")

DEAD_STREAM: Final = "GAMEBROKER_DEAD_LETTERS"
"""The stream that holds them; administrators may declare it themselves beforehand, with their own limits."""
DEAD_SUBJECTS: Final = f"{PREFIX}.>"

_STORE_TIMEOUT: Final = 10.0


def dead_stream_options(replicas: int = 1) -> StreamOptions:
    """How the stream is made when nobody declared it before."""
    return StreamOptions(
        DEAD_STREAM,
        [DEAD_SUBJECTS],
        replicas=replicas,
        description="messages that gave up, kept until replayed or discarded",
    )


class _Which(Enum):
    """What ``replay`` is about when no letter is named: ``None`` is what a ``get`` that found none returns."""

    FILTERED = "all that match the filters"


class DeadLetterWriter:
    """Writes dead letters for one consumption, each confirmed before it returns."""

    def __init__(self, backend: StreamBackend, enqueuer: Enqueuer, *, create: bool) -> None:
        self._backend = backend
        self._enqueuer = enqueuer
        self._create = create

    async def prepare(self, source_stream: str) -> None:
        """Make sure of the stream, with as many replicas as the source has; now, not when the first one gives up.

        Raises:
            ConfigDrift: a stream of that name exists and does not take dead letters.
        """
        if self._create:
            info = await self._backend.stream_info(source_stream)
            await _make_sure(self._backend, info.config.replicas)

    async def write(
        self,
        delivery: Delivery,
        *,
        reason: str,
        error: BaseException | None,
        lane_key: str | None = None,
        turn: int = 0,
    ) -> int:
        """Store it; its number among the dead letters. The same delivery written twice is stored once.

        ``lane_key`` says that later messages of that key wait for what becomes of it, ``turn`` tells apart that the
        same message gave up, was replayed and gave up again.

        Raises:
            StreamError, ConnectError, PayloadTooLarge: it is not certain to be kept; do not terminate the message.
        """
        try:
            record = record_of(delivery, reason, error, complete=True, lane_key=lane_key, turn=turn)
            sequence = await self._store(record, delivery.stream)
        except PayloadTooLarge:
            # Our headers made it too large. A reference is enough where the original stays.
            if (await self._backend.stream_info(delivery.stream)).config.retention != "limits":
                raise
            record = record_of(delivery, reason, error, complete=False, lane_key=lane_key, turn=turn)
            sequence = await self._store(record, delivery.stream)
        self._backend.stats.dead_lettered += 1
        waits = "" if lane_key is None else f"; its key {lane_key!r} waits until that is replayed or discarded"
        log.warning(
            "%r (%s sequence %d) gave up in %s, %s: dead letter %d%s",
            delivery.subject,
            delivery.stream,
            delivery.sequence,
            delivery.consumer,
            reason or "no reason given",
            sequence,
            waits,
        )
        return sequence

    async def _store(self, record: Record, source_stream: str) -> int:
        deadline = asyncio.get_running_loop().time() + _STORE_TIMEOUT
        try:
            receipt = await self._enqueuer.store(record, deadline=deadline)
        except NoStream:
            if not self._create:
                raise
            await self.prepare(source_stream)
            receipt = await self._enqueuer.store(record, deadline=deadline)
        return receipt.sequence


class DeadLetters:
    """The dead letters of this server: look, replay, discard."""

    def __init__(self, backend: StreamBackend, enqueuer: Enqueuer, codec: Codec) -> None:
        self._backend = backend
        self._enqueuer = enqueuer
        self._codec = codec

    async def declare(self, *, replicas: int = 1) -> None:
        """Make the stream that holds them, for roles that only bind; whoever may make it needs no such call.

        Fine when it exists, with whatever limits.

        Raises:
            ConfigDrift: a stream of that name exists and does not take dead letters.
            InvalidOption: at once.
        """
        await _make_sure(self._backend, replicas)

    async def list(
        self, *, stream: str | None = None, consumer: str | None = None, subject: str | None = None
    ) -> AsyncIterator[DeadLetter]:
        """Oldest first, those that match every filter given; nothing before the first one ever.

        Args:
            stream: that they came from.
            consumer: that gave up on them.
            subject: pattern of the original subject.
        """
        if subject is not None:
            subscribe_pattern(subject)
        options = ConsumerOptions(filters=(DEAD_SUBJECTS,), stream=DEAD_STREAM, acks=False)
        try:
            async with Reader(options, "end", backend=self._backend, codec=self._codec) as stored:
                async for message in stored:
                    letter = letter_of(message.delivery)
                    if _wanted(letter, stream, consumer, subject):
                        yield letter
        except (NoStream, StreamNotFound):
            return

    async def get(self, sequence: int) -> DeadLetter | None:
        """That one; ``None`` when it was replayed or discarded, or never was."""
        in_range("sequence", sequence, 1, whole=True)
        return await self._read(sequence)

    async def replay(
        self,
        letter: DeadLetter | int | _Which = _Which.FILTERED,
        *,
        stream: str | None = None,
        consumer: str | None = None,
        subject: str | None = None,
        rate: float | None = None,
    ) -> int:
        """Put dead letters back on their original subjects; how many were.

        Each is stored again under a new wire id with the sender's own idempotency key, then removed from the dead
        letters: a crash in between does not put it back twice within the stream's duplicate window. Every consumer
        of that subject sees it again, not only the one that gave up.

        Args:
            letter: this one only (or its sequence); left out, all that match the filters, as in ``list``.
            stream: see ``list``.
            consumer: see ``list``.
            subject: see ``list``.
            rate: per second at most.

        Raises:
            NoStream, StreamFull: the original stream does not take it; the dead letter stays.
            InvalidOption: at once; also for the ``None`` of a ``get`` that found none.
        """
        if rate is not None:
            in_range("rate", rate, 0.001)
        if not isinstance(letter, _Which):
            if stream or consumer or subject:
                raise InvalidOption("replay takes one letter or filters, not both", option="letter")
            one = await self.get(_sequence_of(letter))
            if one is None:
                return 0
            await self._put_back(one)
            return 1
        count = 0
        async for each in self.list(stream=stream, consumer=consumer, subject=subject):
            if rate is not None and count:
                await asyncio.sleep(1 / rate)
            await self._put_back(each)
            count += 1
        return count

    async def discard(self, letter: DeadLetter | int, reason: str = "") -> bool:
        """Remove one for good; whether it was still there. The reason is logged."""
        sequence = _sequence_of(letter)
        in_range("sequence", sequence, 1, whole=True)
        try:
            gone = await self._backend.delete_message(DEAD_STREAM, sequence)
        except StreamNotFound:
            return False
        if gone:
            log.info("dead letter %d discarded: %s", sequence, reason or "no reason given")
        return gone

    async def _put_back(self, letter: DeadLetter) -> None:
        original = None
        if not letter.complete:
            original = await self._backend.get_message(letter.stream, sequence=letter.stream_sequence, last_of=None)
            if original is None:
                raise StreamError(f"the original of dead letter {letter.sequence} is gone", stream=letter.stream)
        record = revived(letter, original)
        if letter.lane_key is not None:
            # Its group alone tries it again, before what waits behind it.
            record = revived_record(letter, letter.lane_key, record.data, record.headers or NO_HEADERS)
        deadline = asyncio.get_running_loop().time() + _STORE_TIMEOUT
        await self._enqueuer.store(record, deadline=deadline)
        await self._backend.delete_message(DEAD_STREAM, letter.sequence)

    async def _read(self, sequence: int) -> DeadLetter | None:
        try:
            stored = await self._backend.get_message(DEAD_STREAM, sequence=sequence, last_of=None)
        except StreamNotFound:
            return None
        return None if stored is None else letter_of(stored)


async def _make_sure(backend: StreamBackend, replicas: int) -> None:
    try:
        await backend.create_stream(dead_stream_options(replicas))
    except ConfigDrift as drift:
        # Declared by an administrator, with limits of their own: theirs are right, as long as letters fit in.
        if "subjects" in drift.differences:
            raise


def _sequence_of(letter: DeadLetter | int) -> int:
    check_kind("letter", letter, (DeadLetter, int), "a dead letter or its sequence", shown=True)
    return letter if isinstance(letter, int) else letter.sequence


def _wanted(letter: DeadLetter, stream: str | None, consumer: str | None, subject: str | None) -> bool:
    return (
        (stream is None or letter.stream == stream)
        and (consumer is None or letter.consumer == consumer)
        and (subject is None or matches(subject, letter.subject))
    )
