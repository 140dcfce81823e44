"""Dead letters: what gave up, kept with its reason until somebody replays or discards it.

One stream holds them all, made when the first consumption that may need it starts. A dead letter is the original body
and headers, plus reserved headers that say where it came from and why.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from broker.contracts.envelopes import Delivery, Record, StoredMessage
from broker.contracts.errors import ConfigDrift, InvalidOption, NoStream, StreamNotFound
from broker.contracts.headers import KEY, ORDERING_KEY, Headers
from broker.contracts.options import StreamOptions, in_range
from broker.contracts.subjects import matches

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from broker.contracts.backend import StreamBackend
    from broker.enqueueing import Enqueuer

log = logging.getLogger("broker.dead_letters")

DEAD_STREAM: Final = "GAMEBROKER_DEAD_LETTERS"
"""The stream that holds them; administrators may declare it themselves beforehand, with their own limits."""
DEAD_SUBJECTS: Final = "gamebroker.dead.>"

_SUBJECT: Final = "Gamebroker-Dead-Subject"
_STREAM: Final = "Gamebroker-Dead-Stream"
_CONSUMER: Final = "Gamebroker-Dead-Consumer"
_SEQUENCE: Final = "Gamebroker-Dead-Sequence"
_ATTEMPTS: Final = "Gamebroker-Dead-Attempts"
_REASON: Final = "Gamebroker-Dead-Reason"
_ERROR: Final = "Gamebroker-Dead-Error"
_ERROR_TYPE: Final = "Gamebroker-Dead-Error-Type"
_FIRST: Final = "Gamebroker-Dead-First-Seen"
_LAST: Final = "Gamebroker-Dead-Last-Seen"
_LONGEST_TEXT: Final = 1024
_STORE_TIMEOUT: Final = 10.0
_NS_PER_SECOND: Final = 1_000_000_000


def dead_stream_options(replicas: int = 1) -> StreamOptions:
    """How the stream is made when nobody declared it before."""
    return StreamOptions(
        DEAD_STREAM,
        [DEAD_SUBJECTS],
        replicas=replicas,
        description="messages that gave up, kept until replayed or discarded",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """One message that gave up.

    Attributes:
        sequence: its number among the dead letters: what ``get``, ``replay`` and ``discard`` go by.
        stream: where it came from, with ``consumer``, ``subject`` and ``stream_sequence``.
        attempts: how often it was handed out.
        reason: ``"max_deliver"``, or what ``term`` was told.
        error: text of the last error, ``""`` when there was none.
        error_type: its class.
        first_seen: when the original was stored.
        last_seen: when it gave up.
        idempotency_key: the sender's own key, kept through replay.
    """

    sequence: int
    stream: str
    consumer: str
    subject: str
    data: bytes
    headers: Headers
    stream_sequence: int
    attempts: int
    reason: str
    error: str
    error_type: str
    first_seen: datetime
    last_seen: datetime
    idempotency_key: str | None
    ordering_key: str | None = None


class DeadLetterWriter:
    """Writes dead letters for one consumption, each confirmed before it returns."""

    def __init__(self, backend: StreamBackend, enqueuer: Enqueuer, *, create: bool) -> None:
        self._backend = backend
        self._enqueuer = enqueuer
        self._create = create

    async def prepare(self, source_stream: str) -> None:
        """Make sure of the stream, with as many replicas as the source has; now, not when the first one gives up."""
        if self._create:
            info = await self._backend.stream_info(source_stream)
            try:
                await self._backend.create_stream(dead_stream_options(info.config.replicas))
            except ConfigDrift:
                # Declared by an administrator, with limits of their own: theirs are right.
                return

    async def write(self, delivery: Delivery, *, reason: str, error: BaseException | None) -> None:
        """Store it; the same delivery written twice is stored once.

        Raises:
            StreamError, ConnectError: it is not certain to be stored; do not terminate the message.
        """
        record = self._record(delivery, reason, error)
        deadline = asyncio.get_running_loop().time() + _STORE_TIMEOUT
        try:
            await self._enqueuer.store(record, record.message_id, deadline=deadline)
        except NoStream:
            if not self._create:
                raise
            await self.prepare(delivery.stream)
            await self._enqueuer.store(record, record.message_id, deadline=deadline)
        self._backend.stats.dead_lettered += 1

    def _record(self, delivery: Delivery, reason: str, error: BaseException | None) -> Record:
        kept = [] if delivery.headers is None else [p for p in delivery.headers.pairs if _survives(p[0])]
        told = [
            (_SUBJECT, delivery.subject),
            (_STREAM, delivery.stream),
            (_CONSUMER, delivery.consumer),
            (_SEQUENCE, str(delivery.sequence)),
            (_ATTEMPTS, str(delivery.attempt)),
            (_REASON, _one_line(reason)),
            (_ERROR, _one_line(str(error)) if error else ""),
            (_ERROR_TYPE, type(error).__name__ if error else ""),
            (_FIRST, datetime.fromtimestamp(delivery.timestamp_ns / _NS_PER_SECOND, UTC).isoformat()),
            (_LAST, datetime.now(UTC).isoformat()),
        ]
        # The store time tells apart a stream that was deleted and made again under the same name.
        identity = f"dead:{delivery.stream}:{delivery.consumer}:{delivery.sequence}:{delivery.timestamp_ns}"
        subject = f"gamebroker.dead.{delivery.stream}.{delivery.consumer}"
        return Record(subject, delivery.data, Headers([*kept, *told]), identity)


class DeadLetters:
    """The dead letters of this server: look, replay, discard."""

    def __init__(self, backend: StreamBackend, enqueuer: Enqueuer) -> None:
        self._backend = backend
        self._enqueuer = enqueuer

    async def list(
        self, *, stream: str | None = None, consumer: str | None = None, subject: str | None = None
    ) -> AsyncIterator[DeadLetter]:
        """Oldest first, those that match every filter given; nothing before the first one ever.

        Args:
            stream: that they came from.
            consumer: that gave up on them.
            subject: pattern of the original subject.
        """
        try:
            state = (await self._backend.stream_info(DEAD_STREAM)).state
        except StreamNotFound:
            return
        for sequence in range(state.first_sequence, state.last_sequence + 1):
            letter = await self._read(sequence)
            if letter is not None and _wanted(letter, stream, consumer, subject):
                yield letter

    async def get(self, sequence: int) -> DeadLetter | None:
        """That one; ``None`` when it was replayed or discarded, or never was."""
        in_range("sequence", sequence, 1, whole=True)
        return await self._read(sequence)

    async def replay(
        self,
        letter: DeadLetter | int | None = None,
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
            letter: this one only (or its sequence); otherwise all that match the filters, as in ``list``.
            stream: see ``list``.
            consumer: see ``list``.
            subject: see ``list``.
            rate: per second at most.

        Raises:
            NoStream, StreamFull: the original stream does not take it; the dead letter stays.
        """
        if rate is not None:
            in_range("rate", rate, 0.001)
        if letter is not None:
            if stream or consumer or subject:
                raise InvalidOption("replay takes one letter or filters, not both", option="letter")
            one = await self.get(letter if isinstance(letter, int) else letter.sequence)
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
        sequence = letter if isinstance(letter, int) else letter.sequence
        in_range("sequence", sequence, 1, whole=True)
        gone = await self._backend.delete_message(DEAD_STREAM, sequence)
        if gone:
            log.info("dead letter %d discarded: %s", sequence, reason or "no reason given")
        return gone

    async def _put_back(self, letter: DeadLetter) -> None:
        pairs = list(letter.headers.pairs)
        if letter.idempotency_key is not None:
            pairs.append((KEY, letter.idempotency_key))
        if letter.ordering_key is not None:
            pairs.append((ORDERING_KEY, letter.ordering_key))
        identity = f"replay:{letter.stream}:{letter.sequence}:{letter.last_seen.isoformat()}"
        record = Record(letter.subject, letter.data, Headers(pairs) if pairs else None, identity)
        deadline = asyncio.get_running_loop().time() + _STORE_TIMEOUT
        await self._enqueuer.store(record, identity, deadline=deadline)
        await self._backend.delete_message(DEAD_STREAM, letter.sequence)

    async def _read(self, sequence: int) -> DeadLetter | None:
        try:
            stored = await self._backend.get_message(DEAD_STREAM, sequence=sequence, last_of=None)
        except StreamNotFound:
            return None
        return None if stored is None else _letter(stored)


def _letter(stored: StoredMessage) -> DeadLetter:
    headers = stored.headers or Headers()
    now = datetime.fromtimestamp(stored.timestamp_ns / _NS_PER_SECOND, UTC)
    return DeadLetter(
        sequence=stored.sequence,
        stream=headers.get(_STREAM, ""),
        consumer=headers.get(_CONSUMER, ""),
        subject=headers.get(_SUBJECT, stored.subject),
        data=stored.data,
        headers=headers.public(),
        stream_sequence=int(headers.get(_SEQUENCE, "0")),
        attempts=int(headers.get(_ATTEMPTS, "0")),
        reason=headers.get(_REASON, ""),
        error=headers.get(_ERROR, ""),
        error_type=headers.get(_ERROR_TYPE, ""),
        first_seen=_time(headers.get(_FIRST), now),
        last_seen=_time(headers.get(_LAST), now),
        idempotency_key=headers.get(KEY),
        ordering_key=headers.get(ORDERING_KEY),
    )


def _time(text: str | None, default: datetime) -> datetime:
    return datetime.fromisoformat(text) if text else default


def _survives(name: str) -> bool:
    """Protocol headers of the old delivery say nothing about the new one; the sender's own keys do."""
    return name in {KEY, ORDERING_KEY} or not name.lower().startswith(("nats-", "gamebroker-dead-"))


def _one_line(text: str) -> str:
    return " ".join(text.replace("\x00", " ").split()).encode("utf-8", "replace").decode()[:_LONGEST_TEXT]


def _wanted(letter: DeadLetter, stream: str | None, consumer: str | None, subject: str | None) -> bool:
    return (
        (stream is None or letter.stream == stream)
        and (consumer is None or letter.consumer == consumer)
        and (subject is None or matches(subject, letter.subject))
    )
