"""Seeing one record through: attempt after attempt with the same id, until it is known what became of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from broker import silences
from broker.attempts import ATTEMPT, Attempts, heed
from broker.contracts.envelopes import Receipt
from broker.contracts.errors import (
    ApiError,
    BrokerError,
    ConnectionLost,
    EnqueueUnknown,
    NoResponders,
    RequestTimeout,
    SequenceConflict,
)
from broker.contracts.headers import KEY, MESSAGE_ID
from broker.keys import key_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from broker.contracts.backend import StreamBackend
    from broker.contracts.envelopes import Record, StoredMessage


class Storing(Attempts):
    """One record on its way into a stream.

    Args:
        backend: where to.
        record: what.
        deadline: by the event loop's clock.
        find_stream: see ``Attempts``.
        since: when it was first sent, if that was before now; by the same clock.
        resent: whether it was sent before, and nobody knows what became of that.
    """

    def __init__(
        self,
        backend: StreamBackend,
        record: Record,
        deadline: float,
        find_stream: Callable[[str], Awaitable[str | None]] | None = None,
        *,
        since: float | None = None,
        resent: bool = False,
    ) -> None:
        super().__init__(backend, record.subject, deadline, find_stream)
        self._record = record
        self._attempts: list[asyncio.Future[Receipt]] = []
        self._sent = self._clock()
        self._since = self._sent if since is None else since
        self._may_be_stored = self._broke = resent

    async def receipt(self, answer: asyncio.Future[Receipt] | None = None) -> Receipt:
        """The server's word; ``answer`` is an attempt that is under way already.

        Raises:
            NoStream, StreamFull, SequenceConflict, PayloadTooLarge, PermissionDenied, ApiError: not stored.
            EnqueueUnknown: no word until the deadline, or the broker was closed meanwhile; or an expectation did not
                hold, and nobody can say whether because of an earlier attempt of ours.
            BrokerClosed, Unauthorized: before anything was sent.
        """
        if answer is not None:
            self._attempts.append(answer)
        try:
            return await self._seen_through()
        finally:
            self._give_up()
            if self._looking is not None:
                await self._forget()

    async def _seen_through(self) -> Receipt:
        stats = self._backend.stats
        last: BrokerError | None = None
        while True:
            if not self._attempts:
                self._send(last)
            try:
                receipt = await self._word()
            except BrokerError as exc:
                last = exc
                # The server looks at what is expected before it looks for repeats: our own earlier attempt may be it,
                # or an earlier call with the same key.
                if isinstance(exc, SequenceConflict) and self._may_be_stored:
                    receipt = await self._resolved(exc)
                elif isinstance(exc, SequenceConflict) and self._has_a_key:
                    receipt = await self._stored_before(exc)
                else:
                    await self._after(exc)
                    continue
            stats.enqueued += 1
            stats.duplicates += receipt.duplicate
            return receipt

    def _send(self, last: BrokerError | None) -> None:
        """Begin an attempt.

        Raises:
            As ``_time_left``.
        """
        self._attempts.append(self._backend.append(self._record, timeout=self._time_left(last)))
        self._sent = self._clock()

    async def _word(self) -> Receipt:
        """The first word on any attempt. While servers are silent another one goes out now and then.

        Raises:
            BrokerError: what an attempt came to; ``RequestTimeout`` leaves the others under way.
        """
        while silences.lately(self._backend, self._clock()):
            attempts, left = self._attempts, max(0.0, self._sent + silences.SOONER - self._clock())
            done, _ = await asyncio.wait(attempts, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if done:
                return self._told(next(each for each in attempts if each in done))
            if self._deadline - self._clock() <= 0:
                break
            self._may_be_stored = True
            self._send(RequestTimeout())
        attempt = self._attempts[0]
        try:
            return await attempt
        finally:
            self._attempts.remove(attempt)

    def _told(self, attempt: asyncio.Future[Receipt]) -> Receipt:
        self._attempts.remove(attempt)
        return attempt.result()

    async def _after(self, error: BrokerError) -> None:
        """What is done about an attempt that came to no receipt; returns when another one may follow, or has."""
        if not isinstance(error, RequestTimeout):
            self._give_up()
            await self._weigh(error)
            await self._rest()
            return
        if not self._attempts and self._clock() - self._sent < silences.SOONER:
            await self._rest()  # told sooner than time can have run out
        self._send(error)
        await self._weigh(error)

    def _under_way(self) -> Iterable[asyncio.Future[Receipt]]:
        """See ``Attempts``."""
        return self._attempts

    def _give_up(self) -> None:
        """Hope for no answer any more."""
        for attempt in self._attempts:
            if not attempt.cancel():
                heed(attempt)
        self._attempts.clear()

    async def _resolved(self, conflict: SequenceConflict) -> Receipt:
        """The receipt of our own earlier attempt, when that is what the expectation ran into.

        Raises:
            SequenceConflict: it was somebody else's message.
            EnqueueUnknown: nobody can say, not in time or not any more.
        """
        try:
            async with asyncio.timeout_at(self._deadline):
                receipt = await self._looked_up()
                if receipt is not None:
                    return receipt
                stream = conflict.stream or await self._find_stream(self._subject)
                known = stream is not None and not await self._may_be_forgotten(stream)
                if stream is not None and not known:
                    after = await self._in_our_place(stream)
                    if after is not None and after.headers and after.headers.get(MESSAGE_ID) == self._record.message_id:
                        return Receipt(stream, after.sequence, duplicate=True)
                    known = after is not None
        except (TimeoutError, BrokerError) as exc:
            raise self._unknown() from exc
        if known:
            raise conflict
        raise self._unknown() from conflict

    @property
    def _has_a_key(self) -> bool:
        """Whether its sender named it, and so may have sent it before."""
        return self._record.headers is not None and KEY in self._record.headers

    async def _stored_before(self, conflict: SequenceConflict) -> Receipt:
        """The receipt of an earlier call's message with the same key.

        Raises:
            SequenceConflict: there is none.
            EnqueueUnknown: nobody can say, not in time.
        """
        try:
            async with asyncio.timeout_at(self._deadline):
                receipt = await self._looked_up()
        except (TimeoutError, BrokerError) as exc:
            raise self._unknown() from exc
        if receipt is None:
            raise conflict
        return receipt

    async def _looked_up(self) -> Receipt | None:
        """What the server remembers of our id, as soon as it can say."""
        while True:
            try:
                return await self._backend.look_up(self._record, timeout=ATTEMPT)
            except (NoResponders, RequestTimeout):
                pass
            except ConnectionLost:
                self._broke = True
                await self._reconnected()
            except ApiError as exc:
                if not exc.transient:
                    raise
            await self._rest()

    async def _may_be_forgotten(self, stream: str) -> bool:
        """Whether a server that does not know the id may have stored it all the same.

        It remembers ids for the stream's window; one that starts anew, those of messages that are still there.
        """
        if self._broke:
            return True
        window = (await self._backend.stream_info(stream)).config.duplicate_window
        return self._clock() - self._since >= window

    async def _in_our_place(self, stream: str) -> StoredMessage | None:
        """The message that came right after what was expected to be the last; ``None`` when that cannot be told.

        It can when what was expected is still there, for a stream with limits drops what is older first.
        """
        record, expect = self._record, self._record.expect
        if expect is None:
            return None
        if expect.last_sequence is not None:
            return await self._message(stream, expect.last_sequence + 1)
        config = (await self._backend.stream_info(stream)).config
        last = expect.last_subject_sequence
        if not last or config.retention != "limits" or config.lanes is not None or record.ttl is not None:
            return None
        kept = await self._message(stream, last)
        if kept is None or kept.subject != record.subject:
            return None
        run = self._backend.get_many(stream, start=last + 1, subject=record.subject, limit=1, max_bytes=None)
        async for message in run:
            return message
        return None

    async def _message(self, stream: str, sequence: int) -> StoredMessage | None:
        return await self._backend.get_message(stream, sequence=sequence, last_of=None, fresh=True)

    def _unknown(self) -> EnqueueUnknown:
        subject, key = self._record.subject, key_of(self._record)
        return EnqueueUnknown(
            f"no word from the server on {subject!r}: it may be stored; enqueue it again with idempotency_key={key!r}",
            idempotency_key=key,
            subject=subject,
        )
