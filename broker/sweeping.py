"""Sweeping up what the server itself gave up on: evidence first, then letter, settlement, and the evidence goes last.

Evidence is a notice of the server's, or, where acks remove messages, that one is still stored though the consumer is
past it. Whatever a sweep did not come to, the next one does: each step finds done what was done before.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, ParamSpec, TypeVar

from broker.contracts.envelopes import Delivery
from broker.contracts.errors import (
    ApiError,
    ConnectionLost,
    ConsumerNotFound,
    EnqueueUnknown,
    NoResponders,
    PayloadTooLarge,
    RequestTimeout,
)
from broker.contracts.subjects import matches
from broker.letters import moment_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from datetime import datetime

    from broker.contracts.admin import ConsumerInfo, StreamInfo
    from broker.contracts.backend import StreamBackend
    from broker.contracts.envelopes import StoredMessage
    from broker.contracts.exhausted import Exhausted, Notice
    from broker.dead_letters import DeadLetterWriter
    from broker.letters import DeadLetter

    Written = Callable[[str, str], AsyncIterator[DeadLetter]]
    """The letters there are of a stream's consumer."""

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger("broker.dead_letters")

SERVER_GAVE_UP: Final = "max_deliver (server)"
"""The reason of a dead letter that a sweep wrote."""
_PATIENCE: Final = 15.0
"""Seconds each step is tried again while nobody answers."""
_PAUSE: Final = 0.2
_GRACE: Final = 2.0
"""Seconds an ack may take to remove its message, and a notice to be kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """What a sweep came to.

    Attributes:
        written: dead letters that were not there before.
        gone: given up, and no longer stored: nothing could be kept. Longer limits of the stream, or more frequent
            sweeps, prevent it.
        undecided: handed out again and again, or given up, which nobody can say yet, mostly because it is in hand;
            also what is too large for a letter (logged). Sweep again.
        unknown: certainly given up, but the server does not tell which: before notices were kept, or one was lost, on
            a stream whose messages stay after their ack. ``consumers.reset`` hands everything from a sequence on out
            again; a consumer without ``max_deliver`` gives nothing up.
    """

    written: int = 0
    gone: int = 0
    undecided: int = 0
    unknown: int = 0


@dataclass(slots=True)
class _Left:
    """What no notice told of.

    Attributes:
        given_up: sequences of messages that were.
        undecided: how many may have been.
        unknown: how many were, nobody knows which.
    """

    given_up: set[int] = field(default_factory=set)
    undecided: int = 0
    unknown: int = 0


class _GivenUp(NamedTuple):
    """A message that was given up, and what is known of how."""

    original: StoredMessage
    consumer: str
    attempts: int
    at: datetime | None


async def sweep(
    backend: StreamBackend, letters: DeadLetterWriter, written: Written, stream: str, consumer: str | None
) -> Swept:
    """See ``DeadLetters.sweep``."""

    async def asked_for() -> list[ConsumerInfo]:
        if consumer is not None:
            return [await backend.consumer_info(stream, consumer)]
        return [each async for each in backend.list_consumers(stream)]

    info = await _insisted(backend.stream_info, stream)
    consumers = await _insisted(asked_for)
    if backend.exhausted is None:
        return Swept()
    burials = _Burials(backend.exhausted, letters, written, stream)
    return await _Sweep(backend, backend.exhausted, burials, info, consumer).run(consumers)


class _Sweep:
    """One sweep: gathers the evidence, and has buried what it speaks of.

    Args:
        backend: where.
        exhausted: the server's side of it.
        burials: what becomes of what was given up.
        info: the stream.
        named: this consumer only.
    """

    def __init__(
        self, backend: StreamBackend, exhausted: Exhausted, burials: _Burials, info: StreamInfo, named: str | None
    ) -> None:
        self._backend = backend
        self._exhausted = exhausted
        self._burials = burials
        self._info = info
        self._named = named
        self._read = 0
        self._gone = 0

    async def run(self, consumers: list[ConsumerInfo]) -> Swept:
        """Everything these consumers gave up on."""
        limited = [each for each in consumers if each.max_deliver is not None]
        if limited:
            await _insisted(self._exhausted.keep_notices, self._info.config.replicas)
        for each in limited:
            if each.ack_pending:
                await _insisted(self._exhausted.decide, each)
        await self._heed_notices()
        left = await self._left_over(limited)
        return Swept(
            written=self._burials.written,
            gone=self._gone,
            undecided=len(self._burials.too_large) + sum(each.undecided for each in left),
            unknown=sum(each.unknown for each in left),
        )

    # -- what the server told

    async def _heed_notices(self) -> None:
        """Those that are there now; what comes while they are read is for the next time."""
        last = await _insisted(self._exhausted.last_notice)
        while self._read < last:
            notice = await _insisted(self._exhausted.next_notice, self._info.name, self._named, self._read)
            if notice is None or notice.number > last:
                return
            if await self._heeded(notice):
                await _insisted(self._exhausted.forget_notice, notice.number)
            self._read = notice.number

    async def _heeded(self, notice: Notice) -> bool:
        """Whether it is seen to."""
        at = moment_of(notice.timestamp_ns)
        made_anew = self._info.created is not None and self._info.created > at  # so that sequence is another message
        original = None if made_anew else await self._original(notice.sequence)
        if original is None:
            self._gone += not await self._burials.has_letter(notice.consumer, notice.sequence)
            return True
        consumer = await self._now(notice.consumer)
        if consumer is not None and _awaits(consumer, original):
            return True  # it was reset, or made anew, or the server went back to what it had saved
        same = consumer is not None and (consumer.created is None or consumer.created <= at)
        if not same and self._info.config.retention == "workqueue":
            return True  # without its consumer it waits for the next one
        given_up = _GivenUp(original, notice.consumer, notice.attempts, at)
        return await self._burials.bury(given_up, settles=consumer is not None and same and consumer.config.acks)

    # -- what nobody told of

    async def _left_over(self, limited: list[ConsumerInfo]) -> list[_Left]:
        """By consumer. What looks given up is looked at twice: an ack may be under way, or a notice."""
        first = [await self._looked_at(each) for each in limited]
        if not any(left.given_up or left.unknown for left in first):
            return first
        await asyncio.sleep(_GRACE)
        await self._heed_notices()
        return [await self._seen_to(each, before) for each, before in zip(limited, first, strict=True)]

    async def _seen_to(self, consumer: ConsumerInfo, before: _Left) -> _Left:
        left = await self._looked_at(consumer)
        for sequence in sorted(before.given_up & left.given_up):
            original = await self._original(sequence)
            if original is not None:
                given_up = _GivenUp(original, consumer.name, consumer.max_deliver or 0, None)
                await self._burials.bury(given_up, settles=True)
        left.undecided += len(left.given_up - before.given_up)
        if left.unknown and not left.undecided:
            await self._burials.settle_again(consumer.name)
            left = await self._looked_at(consumer)
        return left

    async def _looked_at(self, consumer: ConsumerInfo) -> _Left:
        now = await self._now(consumer.name)
        if now is None or not now.config.acks:
            return _Left()  # with one ack for many, what was given up cannot be told apart, nor settled
        if now.max_deliver != 1 and not now.redelivered:
            return _Left()  # whatever was given up had been handed out again before
        if await self._acks_remove():
            return _judged(await self._stored(now), now)
        in_hand = min(now.redelivered, now.ack_pending)
        return _Left(undecided=in_hand, unknown=now.redelivered - in_hand)

    async def _acks_remove(self) -> bool:
        """Whether what is still stored shows what was given up: one ack removes it, and its filters are as stored."""
        if self._info.lane_counts or self._info.config.retention == "limits":
            return False
        if self._info.config.retention == "workqueue":
            return True
        return (await _insisted(self._backend.stream_info, self._info.name)).state.consumers == 1

    async def _stored(self, consumer: ConsumerInfo) -> list[int]:
        """Sequences of its messages that it has handed out and that are still there."""
        found: list[int] = []
        for pattern in consumer.config.filters or (">",):
            after = 0
            while True:
                stored = await _insisted(self._exhausted.next_stored, self._info.name, pattern, after)
                if stored is None or stored.sequence > consumer.delivered_sequence:
                    break
                found.append(stored.sequence)
                after = stored.sequence
        return found

    async def _now(self, consumer: str) -> ConsumerInfo | None:
        try:
            return await _insisted(self._backend.consumer_info, self._info.name, consumer)
        except ConsumerNotFound:
            return None

    async def _original(self, sequence: int) -> StoredMessage | None:
        """As any copy has it; that it is gone only the leader may say."""
        get, name = self._backend.get_message, self._info.name
        original = await _insisted(get, name, sequence=sequence, last_of=None)
        return original or await _insisted(get, name, sequence=sequence, last_of=None, fresh=True)


class _Burials:
    """Dead letters of one stream: each written once, then settled.

    Args:
        exhausted: the server's side of it.
        letters: writes them.
        listed: which there are already.
        stream: theirs.

    Attributes:
        written: how many were not there before.
        too_large: consumer and sequence of what fits in no letter.
    """

    def __init__(self, exhausted: Exhausted, letters: DeadLetterWriter, listed: Written, stream: str) -> None:
        self._exhausted = exhausted
        self._letters = letters
        self._listed = listed
        self._stream = stream
        self._known: dict[str, dict[int, set[datetime]]] = {}
        self.written = 0
        self.too_large: set[tuple[str, int]] = set()

    async def bury(self, given_up: _GivenUp, *, settles: bool) -> bool:
        """Whether it could be kept."""
        original, consumer = given_up.original, given_up.consumer
        letters = (await self._known_of(consumer)).setdefault(original.sequence, set())
        stored_at = moment_of(original.timestamp_ns)
        if stored_at not in letters:
            try:
                lent = self._as_lent(given_up)
                await _insisted(self._letters.write, lent, reason=SERVER_GAVE_UP, error=None, last_seen=given_up.at)
            except PayloadTooLarge as exc:
                log.warning("%s sequence %d was given up and stays: %s", self._stream, original.sequence, exc)
                self.too_large.add((consumer, original.sequence))
                return False
            letters.add(stored_at)
            self.written += 1
        if settles:
            await self._settle(consumer, original.sequence, given_up.attempts)
        return True

    async def has_letter(self, consumer: str, sequence: int) -> bool:
        """Whether one was written of a message that is gone since."""
        return sequence in await self._known_of(consumer)

    async def settle_again(self, consumer: str) -> None:
        """What a sweep has written a letter of: a server that was killed may have forgotten that it is settled."""
        for letter in await _insisted(self._letters_of, consumer):
            if letter.reason == SERVER_GAVE_UP:
                await self._settle(consumer, letter.stream_sequence, letter.attempts)

    async def _settle(self, consumer: str, sequence: int, attempts: int) -> None:
        settle = partial(self._exhausted.settle, attempts=attempts, reason=SERVER_GAVE_UP)
        try:
            await _insisted(settle, self._stream, consumer, sequence)
        except ConsumerNotFound:
            log.info("%s of %s was deleted while it was swept", consumer, self._stream)

    async def _known_of(self, consumer: str) -> dict[int, set[datetime]]:
        """Sequence -> store times of what has its letter; known beyond the window in which repeats are dropped."""
        if consumer not in self._known:
            known: dict[int, set[datetime]] = {}
            for letter in await _insisted(self._letters_of, consumer):
                known.setdefault(letter.stream_sequence, set()).add(letter.first_seen)
            self._known[consumer] = known
        return self._known[consumer]

    async def _letters_of(self, consumer: str) -> list[DeadLetter]:
        return [
            letter
            async for letter in self._listed(self._stream, consumer)
            if (letter.stream, letter.consumer) == (self._stream, consumer)
        ]

    def _as_lent(self, given_up: _GivenUp) -> Delivery:
        original = given_up.original
        return Delivery(
            original.subject,
            original.data,
            original.headers,
            stream=self._stream,
            consumer=given_up.consumer,
            sequence=original.sequence,
            attempt=given_up.attempts,
            timestamp_ns=original.timestamp_ns,
            pending=0,
            token=None,
        )


def _awaits(consumer: ConsumerInfo, original: StoredMessage) -> bool:
    """Whether the consumer has yet to hand it out (again)."""
    filters = consumer.config.filters
    wanted = not filters or any(matches(each, original.subject) for each in filters)
    return wanted and consumer.delivered_sequence < original.sequence


def _judged(stored: list[int], consumer: ConsumerInfo) -> _Left:
    """What is still stored where acks remove messages: in hand, or given up."""
    if consumer.ack_pending:
        certain = {sequence for sequence in stored if sequence <= consumer.ack_floor}
    else:
        certain = set(stored)
    undecided = max(0, len(stored) - len(certain) - consumer.ack_pending)
    if consumer.max_deliver != 1 and len(certain) > consumer.redelivered:
        # More than the server counts: some of it was never handed out (its filter was another, or it was reset).
        return _Left(undecided=undecided + len(certain))
    return _Left(given_up=certain, undecided=undecided)


async def _insisted(step: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """What the step comes to, tried again while nobody can answer: every step may be repeated."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + _PATIENCE
    while True:
        try:
            return await step(*args, **kwargs)
        except (ConnectionLost, EnqueueUnknown, NoResponders, RequestTimeout):
            if clock() > deadline:
                raise
        except ApiError as exc:
            if not exc.transient or clock() > deadline:
                raise
        await asyncio.sleep(_PAUSE)
