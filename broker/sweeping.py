"""Sweeping up what the server itself gave up on: evidence first, then letter, settlement, and the evidence goes last.

Evidence is a notice of the server's, or, where acks remove messages, that one is still stored though the consumer is
past it. Whatever a sweep did not come to, the next one does: each step finds done what was done before.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from broker.burying import Burials, GivenUp, insisted
from broker.contracts.errors import ConsumerNotFound
from broker.contracts.subjects import matches
from broker.letters import moment_of

if TYPE_CHECKING:
    from broker.burying import Listed
    from broker.contracts.admin import ConsumerInfo, StreamInfo
    from broker.contracts.backend import StreamBackend
    from broker.contracts.envelopes import StoredMessage
    from broker.contracts.exhausted import Exhausted, Notice
    from broker.dead_letters import DeadLetterWriter

_GRACE: Final = 2.0
"""Seconds an ack may take to remove its message, and the next notice to be kept."""
_MOST_PAUSES: Final = 30


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


async def sweep(
    backend: StreamBackend, letters: DeadLetterWriter, written: Listed, stream: str, consumer: str | None
) -> Swept:
    """See ``DeadLetters.sweep``."""

    async def asked_for() -> list[ConsumerInfo]:
        if consumer is not None:
            return [await backend.consumer_info(stream, consumer)]
        return [each async for each in backend.list_consumers(stream)]

    info = await insisted(backend.stream_info, stream)
    consumers = await insisted(asked_for)
    if backend.exhausted is None:
        return Swept()
    burials = Burials(backend.exhausted, letters, written, stream)
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
        self, backend: StreamBackend, exhausted: Exhausted, burials: Burials, info: StreamInfo, named: str | None
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
            await insisted(self._exhausted.keep_notices, self._info.config.replicas)
        for each in limited:
            if each.ack_pending:
                await insisted(self._exhausted.decide, each)
        await self._heed_notices()
        left = await self._left_over(limited)
        return Swept(
            written=self._burials.written,
            gone=self._gone,
            undecided=len(self._burials.too_large) + sum(each.undecided for each in left),
            unknown=sum(each.unknown for each in left),
        )

    # -- what the server told

    async def _heed_notices(self) -> bool:
        """Those that are there now; whether there was one. What comes while they are read is for the next time."""
        last = await insisted(self._exhausted.last_notice)
        any_there = False
        while self._read < last:
            notice = await insisted(self._exhausted.next_notice, self._info.name, self._named, self._read)
            if notice is None or notice.number > last:
                self._read = last
                break
            any_there = True
            if await self._heeded(notice):
                await insisted(self._exhausted.forget_notice, notice.number)
            self._read = notice.number
        return any_there

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
        given_up = GivenUp(original, notice.consumer, notice.attempts, at)
        return await self._burials.bury(given_up, settles=consumer is not None and same and consumer.config.acks)

    # -- what nobody told of

    async def _left_over(self, limited: list[ConsumerInfo]) -> list[_Left]:
        """By consumer. What looks given up is looked at twice: an ack may be under way, or a notice."""
        first = [await self._looked_at(each) for each in limited]
        for pause in range(_MOST_PAUSES):
            if not any(left.given_up or left.unknown for left in first):
                break
            await asyncio.sleep(_GRACE)
            if not await self._heed_notices() or pause == _MOST_PAUSES - 1:
                return [await self._seen_to(each, before) for each, before in zip(limited, first, strict=True)]
            first = [await self._looked_at(each) for each in limited]  # more notices may be on their way
        return first

    async def _seen_to(self, consumer: ConsumerInfo, before: _Left) -> _Left:
        left = await self._looked_at(consumer)
        for sequence in sorted(before.given_up & left.given_up):
            original = await self._original(sequence)
            if original is not None:
                given_up = GivenUp(original, consumer.name, consumer.max_deliver or 0, None)
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
        return (await insisted(self._backend.stream_info, self._info.name)).state.consumers == 1

    async def _stored(self, consumer: ConsumerInfo) -> list[int]:
        """Sequences of its messages that it has handed out and that are still there."""
        found: list[int] = []
        for pattern in consumer.config.filters or (">",):
            sequence = 0
            while sequence := await insisted(self._exhausted.next_stored, self._info.name, pattern, sequence):
                if sequence > consumer.delivered_sequence:
                    break
                found.append(sequence)
        return found

    async def _now(self, consumer: str) -> ConsumerInfo | None:
        try:
            return await insisted(self._backend.consumer_info, self._info.name, consumer)
        except ConsumerNotFound:
            return None

    async def _original(self, sequence: int) -> StoredMessage | None:
        """As any copy has it; that it is gone only the leader may say."""
        get, name = self._backend.get_message, self._info.name
        original = await insisted(get, name, sequence=sequence, last_of=None)
        return original or await insisted(get, name, sequence=sequence, last_of=None, fresh=True)


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
