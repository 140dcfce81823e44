"""``read``: a stream in order and without gaps, from anywhere; it lends nothing and settles nothing."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Final, Literal, NoReturn, Self

from broker.contracts.checks import check_moment
from broker.contracts.errors import ApiError, ConnectionLost, ConsumerNotFound, RequestTimeout, Unsupported
from broker.contracts.options import ConsumerOptions, check_start, in_range
from broker.contracts.status import Status
from broker.messages import Settler, StreamMessage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from broker.contracts.backend import DeliverySource, StreamBackend
    from broker.contracts.codec import Codec
    from broker.contracts.envelopes import Delivery
    from broker.contracts.events import Observe

Until = int | datetime | Literal["end"] | None
"""Where reading stops: after a sequence, before the first message stored later than a time, after the last message
stored when it was opened, or never."""

log = logging.getLogger("broker.reading")

_AHEAD: Final = 256
"""Messages on their way to a reader at most."""
_TURN: Final = 1.0
_PAUSE: Final = 0.2
_NS_PER_SECOND: Final = 1_000_000_000


def _check_until(until: object) -> None:
    if until is None or until == "end":
        return
    if isinstance(until, int):
        in_range("until", until, 0, whole=True)
    else:
        check_moment("until", until, '"end", a sequence or a datetime')


class NothingToSettle(Settler):
    """A message that was read is not on loan."""

    async def ack(self, delivery: Delivery, *, confirm: bool) -> None:
        """See ``Settler``."""
        _refuse(delivery, confirm)

    async def nak(self, delivery: Delivery, *, delay: float | None) -> None:
        """See ``Settler``."""
        _refuse(delivery, delay)

    async def term(self, delivery: Delivery, *, reason: str) -> None:
        """See ``Settler``."""
        _refuse(delivery, reason)

    async def in_progress(self, delivery: Delivery) -> None:
        """See ``Settler``."""
        _refuse(delivery)


def _refuse(*_: object) -> NoReturn:
    raise Unsupported("a message that was read is not on loan: there is nothing to settle")


NOT_ON_LOAN: Final = NothingToSettle()


class Reader:
    """An async iterator over stored messages, inside ``async with``.

    A gap is noticed by the consumer's own count, and suspected after every lost connection; it is mended by starting
    again after the last message that was read.
    """

    def __init__(self, options: ConsumerOptions, until: Until, *, backend: StreamBackend, codec: Codec) -> None:
        check_start(options.start)
        _check_until(until)
        self._options = options
        self._until = until
        self._backend = backend
        self._codec = codec
        self._source: DeliverySource | None = None
        self._entered = False
        self._unread: list[Delivery] = []
        self._observe: Observe | None = None
        self._last_sequence = 0
        self._last_count = 0
        self._behind = 0
        self._floor = 0
        self._idle = False
        self._suspect = False
        self._unwatch: Callable[[], None] | None = None
        self._end = until if isinstance(until, int) else None
        self._before = options.start - 1 if isinstance(options.start, int) else 0

    async def __aenter__(self) -> Self:
        if self._entered:
            raise RuntimeError("this reader was entered before: make another one with sb.read(...)")
        self._entered = True
        try:
            self._options = await self._pinned(self._options)
            await self._open(self._options)
            self._unwatch = self._backend.board.watch(self._on_status)
            if self._until == "end":
                self._end = await self._stream_end()
        except BaseException:
            self._entered = False
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._unwatch is not None:
            self._unwatch()
        if self._source is not None:
            await self._source.close()

    async def _open(self, options: ConsumerOptions) -> None:
        try:
            source = self._source = await self._backend.open_consumer(options)
        except ApiError as exc:
            if await self._is_work_queue(options):
                told = "a work queue cannot be read beside its workers; use pull, or streams.get_many"
                raise Unsupported(told, subject=options.filters[0], stream=options.stream) from exc
            raise
        if self._observe is not None:
            source.watch(self._observe)
        if self._until is not None:
            info = await self._backend.consumer_info(source.stream, source.consumer)
            self._floor = info.delivered_sequence

    async def _is_work_queue(self, options: ConsumerOptions) -> bool:
        stream = options.stream or await self._backend.find_stream(options.filters[0])
        return stream is not None and (await self._backend.stream_info(stream)).config.retention == "workqueue"

    async def _pinned(self, options: ConsumerOptions) -> ConsumerOptions:
        """The same start as a sequence where the word means another message a moment later: a restart needs it."""
        if options.start not in {"new", "last"}:
            return options
        stream = options.stream or await self._backend.find_stream(options.filters[0])
        if stream is None:
            return options
        if options.start == "last":
            found = [await self._backend.get_message(stream, sequence=None, last_of=each) for each in options.filters]
            if stored := [each.sequence for each in found if each is not None]:
                return replace(options, start=max(stored))
        return replace(options, start=(await self._backend.stream_info(stream)).state.last_sequence + 1)

    def _on_status(self, status: Status) -> None:
        # What was on its way when the connection broke is gone, and nothing may follow it to show the gap.
        self._suspect = self._suspect or status is Status.RECONNECTING

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> StreamMessage:
        self._backend.board.check_loop()
        return StreamMessage(await self._next(), self._codec, self._backend, settler=NOT_ON_LOAN)

    async def take(self, limit: int) -> list[Delivery]:
        """The next delivery, and those behind it that are here already, up to ``limit``.

        Raises:
            StopAsyncIteration: the end was reached.
        """
        taken = [await self._next()]
        while self._unread and len(taken) < limit and self._unread[-1].consumer_sequence == self._last_count + 1:
            taken.append(await self._next())
        return taken

    async def _next(self) -> Delivery:
        while True:
            if self._unread:
                delivery = self._unread.pop()
            elif self._suspect:
                await self._restart()
                continue
            elif await self._may_be_at_end():
                raise StopAsyncIteration
            else:
                await self._fetch()
                continue
            if self._in_order(delivery):
                break
            await self._restart()
        if self._beyond(delivery):
            raise StopAsyncIteration
        self._last_sequence, self._behind = delivery.sequence, delivery.pending
        return delivery

    @property
    def position(self) -> int:
        """The last sequence that was read; 0 before the first."""
        return self._last_sequence

    @property
    def where(self) -> tuple[str, str]:
        """Stream and consumer it reads from now."""
        source = self._opened()
        return source.stream, source.consumer

    def watch(self, observe: Observe) -> None:
        """Tell it what happens to the consumer, also to those that follow."""
        self._observe = observe
        self._opened().watch(observe)

    async def rest(self) -> None:
        """Ask for nothing until the next step; see ``DeliverySource``."""
        await self._opened().rest()

    def _opened(self) -> DeliverySource:
        if self._source is None:
            raise RuntimeError("use a reader inside `async with sb.read(...) as reader`")
        return self._source

    async def _fetch(self) -> None:
        source = self._opened()
        try:
            batch: Sequence[Delivery] = await source.fetch(_AHEAD, timeout=_TURN)
        except ConsumerNotFound:
            await self._restart()
            return
        self._idle = not batch
        self._backend.stats.delivered += len(batch)
        self._unread = list(reversed(batch))

    def _in_order(self, delivery: Delivery) -> bool:
        """Whether nothing is missing before it; the consumer counts its deliveries without a gap."""
        count = delivery.consumer_sequence
        if count and count != self._last_count + 1:
            return False
        self._last_count = count
        return True

    async def _restart(self) -> None:
        """A new consumer that starts after the last message that was read; cancelled, the next step does it."""
        log.info("reading %s again from after sequence %d", self._opened().stream, self._last_sequence)
        self._suspect = self._idle = False  # set again by whatever happens meanwhile
        done = False
        try:
            await self._open_again()
            done = True
        finally:
            self._suspect = self._suspect or not done

    async def _open_again(self) -> None:
        await self._opened().close()
        self._unread.clear()
        self._last_count = 0
        options = self._options
        if self._last_sequence:
            options = replace(options, start=self._last_sequence + 1)
        while True:
            try:
                await self._open(options)
            except (ConnectionLost, RequestTimeout):
                await self._opened().close()
                await asyncio.sleep(_PAUSE)
            except ApiError as exc:
                if not exc.transient:
                    raise
                await asyncio.sleep(_PAUSE)
            else:
                return

    def _beyond(self, delivery: Delivery) -> bool:
        if isinstance(self._until, datetime):
            return delivery.timestamp_ns / _NS_PER_SECOND > self._until.timestamp()
        return self._end is not None and delivery.sequence > self._end

    async def _may_be_at_end(self) -> bool:
        """``_passed_end``; no answer just now is no: reading outlives it."""
        try:
            return await self._passed_end()
        except ConsumerNotFound:
            await self._restart()
        except (ConnectionLost, RequestTimeout):
            self._suspect = True
            await asyncio.sleep(_PAUSE)
        return False

    async def _passed_end(self) -> bool:
        """Whether nothing that is still to come lies before the end."""
        if self._until is None:
            return False
        if self._end is not None and max(self._last_sequence, self._before) >= self._end:
            return True
        if (self._behind and not self._idle) or await self._more_on_its_way():
            return False
        if isinstance(self._until, datetime):
            return datetime.now(self._until.tzinfo) > self._until
        return self._end is None or (await self._stream_end()) >= self._end

    async def _more_on_its_way(self) -> bool:
        """Whether the consumer has something for us, or sent something that is not here yet."""
        source = self._opened()
        info = await self._backend.consumer_info(source.stream, source.consumer)
        if info.pending:
            return True
        if info.delivered_sequence <= max(self._floor, self._last_sequence):
            return False
        if self._idle:  # sent, but nothing came for a while: lost on its way
            await self._restart()
        return True

    async def _stream_end(self) -> int:
        return (await self._backend.stream_info(self._opened().stream)).state.last_sequence
