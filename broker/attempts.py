"""What every way of storing does between two attempts: weighs what the last one came to, looks around, and rests."""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final

from broker import silences
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
    Unauthorized,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from broker.contracts.backend import StreamBackend
    from broker.contracts.envelopes import Receipt

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
        self._looking: asyncio.Task[str | None] | None = None
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
        if isinstance(error, NoResponders | RequestTimeout):
            silences.note(self._backend, self._clock())
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
            captured = await self._captured(subject)
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

    async def _captured(self, subject: str) -> str | None:
        """Which stream captures it. Servers without a leader do not say: asking goes on beside the next attempt.

        Raises:
            TimeoutError: nobody has said yet.
        """
        if self._looking is None:
            self._looking = asyncio.ensure_future(self._find_stream(subject))
        looking = self._looking
        left = max(0.0, self._deadline - self._clock())
        either: set[asyncio.Future[Any]] = {looking, *self._under_way()}
        await asyncio.wait(either, timeout=min(left, silences.SOONER), return_when=asyncio.FIRST_COMPLETED)
        if not looking.done():
            raise TimeoutError
        self._looking = None
        return looking.result()

    def _under_way(self) -> Iterable[asyncio.Future[Receipt]]:
        """Attempts that may still be answered."""
        return ()

    async def _forget(self) -> None:
        """Ask nothing any more."""
        looking, self._looking = self._looking, None
        if looking is not None:
            looking.cancel()
            await asyncio.wait({looking})
            heed(looking)

    async def _reconnected(self) -> None:
        """Wait for the connection, at most until the deadline."""
        try:
            await self._backend.board.connected(max(0.0, self._deadline - self._clock()))
        except (BrokerClosed, Unauthorized) as exc:
            raise self._unknown() from exc
        except ConnectionLost:
            return


def heed(future: asyncio.Future[Any]) -> None:
    """Look at its error, if it has one: nobody else may ask any more, and an error never asked for is logged."""
    if not future.cancelled():
        future.exception()
