"""``watch``: what becomes of keys, from their values now to whatever happens next."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Self

from broker.key_value.absence import Absence
from broker.key_value.entries import KeyEntry
from broker.key_value.following import Following

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from broker.contracts.backend import StreamBackend
    from broker.contracts.codec import Codec
    from broker.contracts.envelopes import Delivery, StoredMessage
    from broker.contracts.options import ConsumerOptions


class Watch:
    """An async iterator over revisions; inside ``async with`` it ends with the block.

    It goes on after a lost connection by itself. A key that has gone meanwhile, and its last word with it, is told as
    ``PURGE``, with the first revision that was not seen and the time when that was noticed. It ends when it, or its
    broker, is closed; ``BucketNotFound`` ends it when the bucket is deleted.

    Attributes:
        ready: an ``asyncio.Event``, set with the last revision of what was there when the watch was opened: never
            before, and at once when there was nothing. It needs somebody who iterates.
    """

    def __init__(
        self,
        options: ConsumerOptions,
        *,
        bucket: str,
        skip: int,
        deletes: bool,
        backend: StreamBackend,
        codec: Codec,
        register: Callable[[Watch], None],
        forget: Callable[[Watch], None],
    ) -> None:
        self._following = Following(options, backend, tell_gaps=deletes)
        self._absence = Absence(options, backend)
        self._gone: deque[StoredMessage] = deque()
        self.ready = self._following.ready
        self._bucket = bucket
        self._skip = skip
        self._deletes = deletes
        self._codec = codec
        self._board = backend.board
        self._register = register
        self._forget = forget
        self._opened = False
        self._closed = False

    async def aclose(self) -> None:
        """End the iteration. Idempotent."""
        self._closed = True
        self._forget(self)
        await self._absence.close()
        await self._following.close()

    async def drain(self, timeout: float, *, caller: asyncio.Task[object] | None = None) -> None:
        """The broker is closing: end."""
        del timeout, caller  # nothing of ours runs
        await self.aclose()

    async def __aenter__(self) -> Self:
        self._board.check_loop()
        if not self._opened and not self._closed:
            await self._following.open()
            self._opened = True
            self._register(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> KeyEntry:
        await self.__aenter__()
        try:
            while not self._closed:
                message = await self._next()
                if message is None:
                    continue
                entry = KeyEntry(message, self._bucket, message.subject[self._skip :], self._codec)
                if self._deletes:
                    self._absence.note(message.subject, deleted=entry.deleted)
                elif entry.deleted:
                    continue
                return entry
        except asyncio.CancelledError:
            raise
        except BaseException:
            await self.aclose()
            raise
        raise StopAsyncIteration

    async def _next(self) -> Delivery | StoredMessage | None:
        """What is told next; ``None``: look again."""
        missing_from = self._following.missing_from
        if missing_from is not None:
            self._gone.extend(await self._absence.gone(missing_from))
            self._following.missing_from = None
        return self._gone.popleft() if self._gone else await self._following.next()
