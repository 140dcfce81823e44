"""Dead letters: what gave up, kept with its reason until somebody replays or discards it.

One stream holds them all, made when the first consumption that may need it starts.
"""

from __future__ import annotations

import asyncio
import logging
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Final

from broker.contracts.checks import check_kind, check_text
from broker.contracts.envelopes import refilled
from broker.contracts.errors import (
    ConfigDrift,
    InvalidOption,
    InvalidSubject,
    NoStream,
    PayloadTooLarge,
    PermissionDenied,
    StreamError,
    StreamNotFound,
    Unsupported,
)
from broker.contracts.headers import LEFT_OUT, NO_HEADERS
from broker.contracts.options import ConsumerOptions, StreamOptions, in_range
from broker.contracts.subjects import matches, resource_name, subscribe_pattern
from broker.lanes.records import revived_record, when_made
from broker.letters import (
    PREFIX,
    DeadLetter,
    addressed,
    check_taken,
    in_short,
    letter_of,
    record_of,
    revived,
    subject_of,
)
from broker.reading import Reader
from broker.sweeping import sweep

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime

    from broker.contracts.backend import StreamBackend
    from broker.contracts.codec import Codec
    from broker.contracts.envelopes import Delivery, Record
    from broker.enqueueing import Enqueuer
    from broker.letters import FromLane
    from broker.sweeping import Swept

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
        lane: FromLane | None = None,
        last_seen: datetime | None = None,
    ) -> int:
        """Store it; its number among the dead letters. The same delivery written twice is there once.

        The body that a consumer leaves out (``headers_only``) is read from the stream; where it is gone from there,
        the letter says that it is not complete.

        ``last_seen`` is when it gave up, now by default.

        Raises:
            StreamError, ConnectError, PayloadTooLarge: it is not certain to be kept; do not terminate the message.
        """
        whole = await self._whole(delivery)
        record = partial(record_of, reason=reason, error=error, lane=lane, last_seen=last_seen)
        try:
            sequence = await self._store(record(whole or delivery, complete=whole is not None), delivery.stream)
        except PayloadTooLarge:
            # Our headers made it too large. A reference is enough where the original stays.
            if (await self._backend.stream_info(delivery.stream)).config.retention != "limits":
                raise
            sequence = await self._store(record(refilled(delivery, b"", None), complete=False), delivery.stream)
        self._backend.stats.dead_lettered += 1
        waits = "" if lane is None else f"; its key {lane.key!r} waits until that is replayed or discarded"
        log.warning(
            "%r (%s sequence %d) gave up in %s, %s: dead letter %d%s",
            delivery.subject,
            delivery.stream,
            delivery.sequence,
            delivery.consumer,
            in_short(reason) or "no reason given",
            sequence,
            waits,
        )
        return sequence

    async def _whole(self, delivery: Delivery) -> Delivery | None:
        """The delivery with its body; ``None`` when it came without, and the original is gone."""
        if delivery.data or delivery.headers is None or delivery.headers.get(LEFT_OUT, "0") == "0":
            return delivery
        original = await self._backend.get_message(delivery.stream, sequence=delivery.sequence, last_of=None)
        if original is None or original.timestamp_ns != delivery.timestamp_ns:
            return None
        return refilled(delivery, original.data, delivery.headers)

    async def _store(self, record: Record, source_stream: str) -> int:
        deadline = asyncio.get_running_loop().time() + _STORE_TIMEOUT
        try:
            receipt = await self._enqueuer.keep(record, deadline=deadline)
        except NoStream:
            if not self._create:
                raise
            await self.prepare(source_stream)
            receipt = await self._enqueuer.keep(record, deadline=deadline)
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

        Raises:
            InvalidOption, InvalidSubject: a filter that no letter could match; on the first step.
        """
        _check_filters(stream, consumer, subject)
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
            Unsupported: its stream does not take that subject, its ``subject_transform`` does not tell what was sent
                to it, or somebody else than its consumer wrote it; the dead letter stays. Of many, those that can be
                are put back first; the first refusal is raised then, the others are in the log.
            InvalidOption: at once; also for the ``None`` of a ``get`` that found none.
        """
        if rate is not None:
            in_range("rate", rate, 0.001)
        _check_filters(stream, consumer, subject)
        if not isinstance(letter, _Which):
            if stream or consumer or subject or rate:
                raise InvalidOption("replay takes one letter, or filters and a rate, not both", option="letter")
            one = await self.get(_sequence_of(letter))
            if one is None:
                return 0
            await self._put_back(one)
            return 1
        return await self._put_all_back(self.list(stream=stream, consumer=consumer, subject=subject), rate)

    async def _put_all_back(self, letters: AsyncIterator[DeadLetter], rate: float | None) -> int:
        count, refused = 0, None
        async for each in letters:
            if not each.stream:
                log.warning("dead letter %d stays: it was not written by the consumer it names", each.sequence)
                continue
            if rate is not None and count:
                await asyncio.sleep(1 / rate)
            try:
                await self._put_back(each)
            except (Unsupported, InvalidSubject) as exc:
                log.warning("dead letter %d stays: %s", each.sequence, exc)
                refused = refused or exc
            else:
                count += 1
        if refused is not None:
            raise refused
        return count

    async def sweep(self, stream: str, consumer: str | None = None) -> Swept:
        """Write dead letters for what the server itself gave up on; call it again and again, now and then.

        Consumers of ours never have the server give up. Those that others made may (``max_deliver``); what they gave
        up on is handed out no more and shows nowhere. The first sweep has the server's notices kept from then on, in
        the stream ``GAMEBROKER_GIVEN_UP``; each letter is confirmed before its original is settled, so a sweep that
        is cut short is simply done again. Nothing is taken from workers.

        Args:
            stream: whose consumers are swept.
            consumer: this one only.

        Raises:
            StreamNotFound, ConsumerNotFound: there is none.
            ConfigDrift, ApiError: notices cannot be kept.
            PermissionDenied: by subject; what was swept before stays swept.
            ConnectionLost, RequestTimeout, EnqueueUnknown: nobody answered for 15 s: likewise. Sweep again.
        """
        resource_name(stream, "stream")
        if consumer is not None:
            resource_name(consumer, "consumer")
        letters = DeadLetterWriter(self._backend, self._enqueuer, create=True)
        return await sweep(self._backend, letters, self._written, stream, consumer)

    async def _written(self, stream: str, consumer: str) -> AsyncIterator[DeadLetter]:
        """The letters of one consumer, without their bodies."""
        subject = subject_of(stream, consumer)
        options = ConsumerOptions(filters=(subject,), stream=DEAD_STREAM, acks=False, headers_only=True)
        try:
            async with Reader(options, "end", backend=self._backend, codec=self._codec) as stored:
                async for message in stored:
                    yield letter_of(message.delivery)
        except (NoStream, StreamNotFound):
            return

    async def discard(self, letter: DeadLetter | int, reason: str = "") -> bool:
        """Remove one for good; whether it was still there. The reason is logged.

        Raises:
            InvalidOption: at once.
        """
        check_text("reason", reason)
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
        config = await self._config(letter)
        original = None
        held_up = letter.lane_key is not None and await self._is_of_this_stream(letter)
        if not letter.complete:
            original = await self._backend.get_message(letter.stream, sequence=letter.stream_sequence, last_of=None)
            if original is None or (letter.lane_key is not None and not held_up):
                raise StreamError(f"the original of dead letter {letter.sequence} is gone", stream=letter.stream)
        record = revived(letter, original)
        if held_up:
            # Its group alone tries it again, before what waits behind it.
            record = revived_record(letter, record.data, record.headers or NO_HEADERS)
        elif config is not None:
            record = addressed(letter, record, config)
        deadline = asyncio.get_running_loop().time() + _STORE_TIMEOUT
        await self._enqueuer.store(record, deadline=deadline)
        await self._backend.delete_message(DEAD_STREAM, letter.sequence)

    async def _config(self, letter: DeadLetter) -> StreamOptions | None:
        """Of its stream, which takes such messages; ``None`` when it cannot be asked.

        Whoever may write letters of one consumer may not have anything stored that way which that one never reads.
        """
        if not letter.stream:
            told = f"dead letter {letter.sequence} was not written by its consumer; look at it, then discard it"
            raise Unsupported(told)
        try:
            config = (await self._backend.stream_info(letter.stream)).config
        except (StreamNotFound, PermissionDenied, InvalidSubject):  # another stream may take it, or says why not
            return None
        check_taken(letter, config)
        return config

    async def _is_of_this_stream(self, letter: DeadLetter) -> bool:
        """Whether the stream was not deleted since, and perhaps made again."""
        try:
            return when_made(await self._backend.stream_info(letter.stream)) == letter.stream_made
        except StreamNotFound:
            return False

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


def _check_filters(stream: str | None, consumer: str | None, subject: str | None) -> None:
    for name, what in ((stream, "stream"), (consumer, "consumer")):
        if name is not None:
            resource_name(name, what)
    if subject is not None:
        subscribe_pattern(subject)


def _wanted(letter: DeadLetter, stream: str | None, consumer: str | None, subject: str | None) -> bool:
    return (
        (stream is None or letter.stream == stream)
        and (consumer is None or letter.consumer == consumer)
        and (subject is None or matches(subject, letter.subject))
    )
