"""Seeing one record through: attempt after attempt with the same id, until it is known what became of it."""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

from broker.contracts.envelopes import Receipt
from broker.contracts.errors import (
    ApiError,
    BrokerClosed,
    BrokerError,
    ConnectionLost,
    EnqueueUnknown,
    NoResponders,
    NoStream,
    PermissionDenied,
    RequestTimeout,
    SequenceConflict,
    Unauthorized,
)
from broker.contracts.headers import KEY, MESSAGE_ID
from broker.keys import key_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from broker.contracts.backend import StreamBackend
    from broker.contracts.envelopes import Record, StoredMessage

ATTEMPT: Final = 3.0
"""Seconds one attempt waits for the server's word before the same id is sent again."""
_PAUSE: Final = (0.05, 1.0)
"""Seconds between attempts: from, doubling, to; each shortened at random so that many callers spread."""
_UNSURE: Final = 2.0
"""Seconds a role that may not ask which stream captures a subject keeps trying before it believes that none does."""


class Attempts(ABC):
    """What every way of storing does between two attempts: weigh what the last one came to, and rest.

    Args:
        backend: where to.
        subject: what it is stored under, for asking whether a stream captures it.
        deadline: by the event loop's clock.
        find_stream: which stream captures a subject, when many ask at once; the backend by default.

    Attributes:
        stranded: it ended because nobody answers on its subject, and would so for every other record there.
    """

    def __init__(
        self,
        backend: StreamBackend,
        subject: str,
        deadline: float,
        find_stream: Callable[[str], Awaitable[str | None]] | None = None,
    ) -> None:
        self._backend = backend
        self._find_stream = find_stream or backend.find_stream
        self._subject = subject
        self._deadline = deadline
        self._clock = asyncio.get_running_loop().time
        self._pause = _PAUSE[0]
        self._may_be_stored = False
        self._broke = False
        self._believe_at: float | None = None
        self._home: str | None = None
        self.stranded = False

    @abstractmethod
    def _unknown(self) -> EnqueueUnknown:
        """What the caller is told when nothing more can be found out."""

    def _time_left(self, last: BrokerError | None) -> float:
        """Seconds the next attempt may take.

        Raises:
            EnqueueUnknown: none, or the broker was closed after an attempt that may have arrived.
            BrokerClosed, Unauthorized, Unsupported (another event loop): before anything was sent.
        """
        self._backend.board.check_loop()
        left = self._deadline - self._clock()
        if left <= 0:
            raise self._unknown() from last
        try:
            self._backend.board.check_open()
        except (BrokerClosed, Unauthorized) as exc:
            if self._may_be_stored:
                raise self._unknown() from exc
            raise
        self._backend.stats.enqueue_retries += last is not None
        return min(left, ATTEMPT)

    async def _rest(self) -> None:
        left = max(0.0, self._deadline - self._clock())
        await asyncio.sleep(min(self._pause * random.uniform(0.5, 1.0), left))
        self._pause = min(self._pause * 2, _PAUSE[1])

    async def _weigh(self, error: BrokerError) -> None:
        """Return when the same id may be sent again; raise what the attempt comes to otherwise."""
        if isinstance(error, NoResponders):
            self._believe_at = self._believe_at or self._clock() + _UNSURE
            self.stranded = True
            await self._refuse_uncaptured(self._believe_at)
            self.stranded = False
        elif isinstance(error, ConnectionLost):
            self._may_be_stored = self._broke = True
            await self._reconnected()
        elif isinstance(error, RequestTimeout):
            self._may_be_stored = True
            # A core subscriber on the subject hides that no stream answered.
            await self._refuse_uncaptured(self._deadline)
        elif isinstance(error, BrokerClosed | Unauthorized):
            raise self._unknown() from error
        elif not (isinstance(error, ApiError) and error.transient):
            raise error

    async def _refuse_uncaptured(self, believe_at: float) -> None:
        """Raise ``NoStream`` when no stream captures the subject; return when one does, or nobody can say."""
        subject = self._subject
        try:
            async with asyncio.timeout_at(self._deadline):
                captured = await self._find_stream(subject)
                self._home = captured
        except PermissionDenied:
            captured = None if self._clock() >= believe_at else subject
        except (TimeoutError, NoResponders, ConnectionLost):  # RequestTimeout is a TimeoutError
            return
        except (BrokerClosed, Unauthorized) as exc:
            raise self._unknown() from exc
        except ApiError as exc:
            if exc.transient:
                return
            raise
        if captured is None:
            raise NoStream(f"no stream captures {subject!r}; declare one whose subjects match it", subject=subject)

    async def _reconnected(self) -> None:
        """Wait for the connection, at most until the deadline."""
        try:
            await self._backend.board.connected(max(0.0, self._deadline - self._clock()))
        except (BrokerClosed, Unauthorized) as exc:
            raise self._unknown() from exc
        except ConnectionLost:
            return


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
        self._since = self._clock() if since is None else since
        self._may_be_stored = self._broke = resent

    async def receipt(self, answer: asyncio.Future[Receipt] | None = None) -> Receipt:
        """The server's word; ``answer`` is an attempt that is under way already.

        Raises:
            NoStream, StreamFull, SequenceConflict, PayloadTooLarge, PermissionDenied, ApiError: not stored.
            EnqueueUnknown: no word until the deadline, or the broker was closed meanwhile; or an expectation did not
                hold, and nobody can say whether because of an earlier attempt of ours.
            BrokerClosed, Unauthorized: before anything was sent.
        """
        stats = self._backend.stats
        last: BrokerError | None = None
        while True:
            if answer is None:
                answer = self._backend.append(self._record, timeout=self._time_left(last))
            try:
                receipt = await answer
            except BrokerError as exc:
                answer, last = None, exc
                # The server looks at what is expected before it looks for repeats: our own earlier attempt may be it,
                # or an earlier call with the same key.
                if isinstance(exc, SequenceConflict) and self._may_be_stored:
                    receipt = await self._resolved(exc)
                elif isinstance(exc, SequenceConflict) and self._has_a_key:
                    receipt = await self._stored_before(exc)
                else:
                    await self._weigh(exc)
                    await self._rest()
                    continue
            stats.enqueued += 1
            stats.duplicates += receipt.duplicate
            return receipt

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
