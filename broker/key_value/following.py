"""The revisions of some keys in order, none missing and none twice, and the moment when those that were there are in.

A gap is noticed by the consumer's own count and suspected after every lost connection; it is mended by a new consumer
that goes on after the last revision seen.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from broker.contracts.errors import (
    ApiError,
    ConnectionLost,
    ConsumerNotFound,
    PermissionDenied,
    RequestTimeout,
    StreamNotFound,
)
from broker.contracts.key_errors import BucketNotFound
from broker.contracts.key_value import STREAM_PREFIX
from broker.contracts.status import Status

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from broker.contracts.backend import DeliverySource, StreamBackend
    from broker.contracts.envelopes import Delivery
    from broker.contracts.options import ConsumerOptions

log = logging.getLogger("broker.key_value")

_AHEAD: Final = 256
"""Revisions on their way at most."""
_TURN: Final = 30.0
"""Seconds a fetch waits when there is nothing to find out; only how often an idle loop turns."""
_ASK: Final = 0.5
"""Seconds of silence, before the initial set is complete, after which the server is asked where it stands."""
_DOUBTS: Final = 4
"""Silences in a row, with the server saying that there is more, after which we begin again."""
_PAUSE: Final = 0.2
_EVERYTHING: Final = ">"


class Following:
    """Deliveries of one bucket.

    Args:
        options: filters and where to start; no acks.
        backend: where from.
        tell_gaps: whether ``missing_from`` is set, by whoever takes it back.

    Attributes:
        ready: set once everything that was stored when it was opened has been returned by ``next``.
        missing_from: the first revision it has not seen, once it went on after a break and some of those that follow
            are not kept any more. ``next`` returns ``None`` until whoever asked for it has set it back to ``None``.
    """

    def __init__(self, options: ConsumerOptions, backend: StreamBackend, *, tell_gaps: bool = False) -> None:
        self.ready = asyncio.Event()
        self.missing_from: int | None = None
        self._tell_gaps = tell_gaps
        self._options = options
        self._backend = backend
        self._source: DeliverySource | None = None
        self._unread: list[Delivery] = []
        self._made: datetime | None = None
        self._last = 0
        self._count = 0
        self._floor = 0
        self._expected = 0
        self._newest = 0
        self._doubts = 0
        self._suspect = False
        self._ended = False
        self._turn: asyncio.Timeout | None = None
        self._unwatch: Callable[[], None] | None = None

    @property
    def stream(self) -> str:
        """The bucket's stream."""
        return self._options.stream or ""

    async def open(self) -> None:
        """Begin.

        Raises:
            BucketNotFound: there is none.
            ConnectionLost, RequestTimeout, PermissionDenied, ApiError, BrokerClosed, Unauthorized.
        """
        options, updates_only = self._options, self._options.start == "new"
        try:
            if updates_only:
                state = (await self._backend.stream_info(self.stream)).state
                options = replace(options, start=state.last_sequence + 1)
            await self._open(options)
        except BaseException as exc:
            if self._source is not None:
                await self._source.close()
            if isinstance(exc, StreamNotFound):
                raise self._gone("there is none") from exc
            raise
        self._options = options
        if updates_only:
            self.ready.set()
        self._unwatch = self._backend.board.watch(self._on_status)

    async def next(self) -> Delivery | None:
        """The next revision; ``None`` when ``ready`` was set without one, with ``missing_from``, or after ``close``.

        Cancelling loses nothing.

        Raises:
            BucketNotFound: it was deleted.
            PermissionDenied, ApiError, BrokerClosed, Unauthorized.
        """
        was_ready = self.ready.is_set()
        while not self._ended and self.ready.is_set() == was_ready and self.missing_from is None:
            if self._suspect:
                await self._restart()
            elif not self._unread:
                await self._fetch()
            else:
                delivery = await self._checked()
                if delivery is not None:
                    return delivery
        return None

    async def close(self) -> None:
        """Stop; a ``next`` that waits returns ``None``. Idempotent."""
        self._ended = True
        if self._unwatch is not None:
            self._unwatch()
        self._interrupt()
        if self._source is not None:
            await self._source.close()

    async def _open(self, options: ConsumerOptions) -> None:
        source = self._source = await self._backend.open_consumer(options)
        if self._ended:
            await source.close()
            return
        self._count = 0
        info = await self._backend.consumer_info(source.stream, source.consumer)
        self._floor, self._expected = info.delivered_sequence, info.pending
        stream = await self._backend.stream_info(source.stream)
        if self._made is not None and stream.created != self._made:
            raise self._gone("it was deleted and made again")
        self._made, self._newest = stream.created, stream.state.last_sequence
        if not info.pending:
            self.ready.set()

    def _on_status(self, status: Status) -> None:
        # What was on its way when the connection broke is gone, and the consumer may be, too.
        if status is Status.RECONNECTING:
            self._suspect = True
            self._interrupt()

    def _interrupt(self) -> None:
        if self._turn is not None and self._turn.when() != 0:
            self._turn.reschedule(0)

    async def _fetch(self) -> None:
        source = self._source
        if source is None:
            raise RuntimeError("not opened")
        initial = not self.ready.is_set()
        try:
            async with asyncio.timeout(None) as self._turn:
                batch = await source.fetch(_AHEAD, timeout=_ASK if initial else _TURN)
        except TimeoutError:  # interrupted: by a lost connection or the end
            if self._ended or self._suspect:
                return
            raise
        except (ConsumerNotFound, StreamNotFound):
            self._suspect = True
            return
        finally:
            self._turn = None
        self._backend.stats.delivered += len(batch)
        self._unread = list(reversed(batch))
        if batch:
            self._doubts = 0
        elif initial:
            await self._look()

    async def _checked(self) -> Delivery | None:
        """The oldest of those that are here, unless something before it is missing or it was returned before."""
        delivery = self._unread[-1]
        count = delivery.consumer_sequence
        if count and count != self._count + 1:
            self._suspect = True
            return None
        complete = False
        if not self.ready.is_set() and not delivery.pending:
            complete = await self._complete(delivery.sequence, certain=self._count + 1 >= self._expected)
        if self._suspect or self._ended:
            return None
        self._unread.pop()
        self._count += 1
        fresh = delivery.sequence > self._last
        self._last = max(self._last, delivery.sequence)
        if complete:
            self.ready.set()
        return delivery if fresh else None

    async def _look(self) -> None:
        """Nothing comes: is the initial set complete, or has something on its way got lost?"""
        if await self._complete(self._last, certain=False):
            self.ready.set()
        else:
            self._doubts += 1
            self._suspect = self._suspect or self._doubts >= _DOUBTS

    async def _complete(self, upto: int, *, certain: bool) -> bool:
        """Whether nothing that is stored comes after ``upto``; ``certain``: the consumer's counts leave no doubt.

        What waits, by the server's count, is not exact: a value that replaces another one is counted a moment after
        the other one has gone. So nothing is complete unless the stream itself has nothing newer.
        """
        source = self._source
        if source is None:
            return False
        upto = max(self._floor, self._last, upto)
        try:
            if not certain:  # fewer than there were at first: some were replaced meanwhile
                info = await self._backend.consumer_info(source.stream, source.consumer)
                if info.pending or info.delivered_sequence > upto:
                    return False
            return not await self._has_newer(upto)
        except PermissionDenied:  # not allowed to read messages one by one: the counts are all there is
            return True
        except (ConsumerNotFound, StreamNotFound, ConnectionLost, RequestTimeout):
            self._suspect = True
        except ApiError as exc:
            if not exc.transient:
                raise
        return False

    async def _has_newer(self, upto: int) -> bool:
        """Whether any of these keys has a revision after ``upto``, by the leader's word; asked one after the other."""
        for pattern in self._options.filters or (_EVERYTHING,):
            newest = await self._backend.get_message(self.stream, sequence=None, last_of=pattern, fresh=True)
            if newest is not None and newest.sequence > upto:
                return True
        return False

    async def _restart(self) -> None:
        """A new consumer that goes on after the last revision seen."""
        log.info("following %s again from after revision %d", self.stream, self._last)
        self._doubts = 0
        self._unread.clear()
        options = self._options
        # Not before the initial set is complete: revisions that others have replaced would come in between.
        if self._last and (self.ready.is_set() or options.start != "last_per_subject"):
            options = replace(options, start=self._last + 1)
        self._suspect = False  # set again by whatever happens meanwhile
        done = False
        try:
            while not done and not self._ended:
                if self._source is not None:
                    await self._source.close()
                done = await self._reopened(options)
                if not done:
                    await asyncio.sleep(_PAUSE)
        finally:
            self._suspect = self._suspect or not done
        self._note_gap()

    def _note_gap(self) -> None:
        """Whether some of the revisions after the last one seen are gone: nothing is missing when all of them wait."""
        all_wait = self.ready.is_set() and self._expected >= self._newest - self._last
        if self._tell_gaps and self._last and self._newest > self._last and not all_wait:
            self.missing_from = self._last + 1

    async def _reopened(self, options: ConsumerOptions) -> bool:
        """Whether that worked; ``False``: not just now."""
        try:
            await self._open(options)
        except BucketNotFound:
            raise
        except StreamNotFound as exc:
            raise self._gone("it was deleted") from exc
        except (ConnectionLost, RequestTimeout, ConsumerNotFound):
            return False
        except ApiError as exc:
            if not exc.transient:
                raise
            return False
        return True

    def _gone(self, why: str) -> BucketNotFound:
        bucket = self.stream.removeprefix(STREAM_PREFIX)
        return BucketNotFound(f"bucket {bucket!r}: {why}", bucket=bucket, stream=self.stream)
