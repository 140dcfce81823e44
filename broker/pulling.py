"""``pull``: the caller holds the loop and settles every message; nothing is settled or extended for them."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Self

from broker.announcing import Announcer, Events
from broker.contracts.errors import BrokerClosed, BrokerError, ConsumerGone, ConsumerNotFound, StreamNotFound
from broker.contracts.events import ConsumerEventKind
from broker.contracts.options import in_range
from broker.messages import StreamMessage
from broker.settling import PlainSettler

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from broker.contracts.backend import DeliverySource, StreamBackend
    from broker.contracts.codec import Codec
    from broker.contracts.options import ConsumerOptions

_SHORTEST: Final = 0.05
"""Seconds even ``timeout=0`` waits: the server has to be asked."""
_BRISK: Final = 10
"""``async for`` takes twice as many messages ahead when the last ones took less than ``ack_wait`` over this."""
_TURN: Final = 5.0
"""Seconds ``async for`` waits in one go; only how often an idle loop turns."""


class Puller:
    """Messages on demand, inside ``async with``."""

    def __init__(
        self,
        options: ConsumerOptions,
        *,
        batch: int,
        max_bytes: int | None,
        backend: StreamBackend,
        codec: Codec,
        admit: Callable[[Puller], Awaitable[None]],
        forget: Callable[[Puller], None],
    ) -> None:
        self._options = options
        self._batch = batch
        self._max_bytes = max_bytes
        self._backend = backend
        self._codec = codec
        self._admit = admit
        self._forget = forget
        self._announcer = Announcer(backend)
        self._source: DeliverySource | None = None
        self._kept: deque[StreamMessage] = deque()
        self._ended = self._left = False
        self._ahead = 1
        self._taken_at = 0.0

    async def fetch(self, limit: int, *, timeout: float = 5.0) -> list[StreamMessage]:
        """Up to ``limit`` messages: as soon as that many came, or no more are waiting, or ``timeout`` seconds passed.

        Never more than ``max_ack_pending``. An empty list means there was nothing.

        Raises:
            ConsumerGone: the consumer was deleted.
            InvalidOption: a limit below 1.
        """
        self._backend.board.check_loop()
        in_range("limit", limit, 1, whole=True)
        in_range("timeout", timeout, 0)
        limit = min(limit, self._options.max_ack_pending)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        left = max(timeout, _SHORTEST)
        while len(self._kept) < limit and left > 0:
            # Kept until returned: a cancelled fetch loses nothing, the next one has it.
            if await self._fetch(limit - len(self._kept), left) == 0:
                break
            left = deadline - loop.time()
        return [self._kept.popleft() for _ in range(min(limit, len(self._kept)))]

    async def next(self, *, timeout: float = 5.0) -> StreamMessage | None:
        """The next message; ``None`` when there was none in ``timeout`` seconds.

        Raises:
            ConsumerGone: the consumer was deleted.
        """
        got = await self.fetch(1, timeout=timeout)
        return got[0] if got else None

    def events(self) -> Events:
        """What happens from now on; see ``Consumption.events``. Ends when the puller is left."""
        return self._announcer.listen()

    async def drain(self, timeout: float, *, caller: asyncio.Task[object] | None = None) -> None:
        """End ``async for`` and give back what was not handed out."""
        del timeout, caller  # nothing of ours runs
        await self._close()

    async def _fetch(self, limit: int, timeout: float) -> int:
        """Keep what comes; how many more are waiting behind it (-1: nothing came)."""
        source = self._opened()
        try:
            deliveries = await source.fetch(limit, timeout=timeout, max_bytes=self._max_bytes)
        except ConsumerNotFound as exc:
            self._announcer.tell(ConsumerEventKind.CONSUMER_DELETED, str(exc))
            raise ConsumerGone(f"consumer {source.consumer!r} was deleted", stream=source.stream) from exc
        except StreamNotFound as exc:
            self._announcer.tell(ConsumerEventKind.STREAM_DELETED, str(exc))
            raise
        stats = self._backend.stats
        stats.delivered += len(deliveries)
        stats.redelivered += sum(each.attempt > 1 for each in deliveries)
        settler = PlainSettler(source, stats)
        self._kept.extend(StreamMessage(each, self._codec, self._backend, settler=settler) for each in deliveries)
        return deliveries[-1].pending if deliveries else -1

    def _opened(self) -> DeliverySource:
        if self._source is None or self._left:
            raise RuntimeError("use a puller inside `async with sb.pull(...) as puller`")
        return self._source

    async def __aenter__(self) -> Self:
        if self._source is not None:
            raise RuntimeError("this puller was entered before: make another one with sb.pull(...)")
        source = self._source = await self._backend.open_consumer(self._options)
        source.watch(self._announcer.tell)
        self._announcer.begin(source.stream, source.consumer)
        await self._admit(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left = True
        await self._close()

    async def _close(self) -> None:
        self._ended = True
        self._announcer.end()
        self._forget(self)
        if self._source is None:
            return
        for message in self._kept:
            with suppress(BrokerError):
                await self._source.nak(message.delivery, delay=0.0)
        self._kept.clear()
        await self._source.close()

    def __aiter__(self) -> Self:
        self._opened()
        return self

    async def __anext__(self) -> StreamMessage:
        self._backend.board.check_loop()
        if not self._kept:
            self._fit_ahead()
        while not self._kept:
            if self._ended:
                raise StopAsyncIteration
            try:
                await self._fetch(self._ahead, _TURN)
            except BrokerClosed:
                if not self._ended:
                    raise
        return self._kept.popleft()

    def _fit_ahead(self) -> None:
        """Take no more ahead than is surely handled within the ack wait: nothing is extended here."""
        now = asyncio.get_running_loop().time()
        brisk = now - self._taken_at < self._options.ack_wait / _BRISK
        self._ahead = min(self._ahead * 2, self._batch) if brisk else 1
        self._taken_at = now
