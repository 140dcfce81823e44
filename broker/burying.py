"""Burying what was given up: its letter is written once, then the original is settled. All of it may be repeated."""

from __future__ import annotations

import asyncio
import logging
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
from broker.letters import moment_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from datetime import datetime

    from broker.contracts.envelopes import StoredMessage
    from broker.contracts.exhausted import Exhausted
    from broker.dead_letters import DeadLetterWriter
    from broker.letters import DeadLetter

    Listed = Callable[[str, str], AsyncIterator[DeadLetter]]
    """The letters there are of a stream's consumer."""

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger("broker.dead_letters")

SERVER_GAVE_UP: Final = "max_deliver (server)"
"""The reason of a dead letter that a sweep wrote."""
_PATIENCE: Final = 15.0
"""Seconds each step is tried again while nobody answers."""
_PAUSE: Final = 0.2


class GivenUp(NamedTuple):
    """A message that was given up, and what is known of how."""

    original: StoredMessage
    consumer: str
    attempts: int
    at: datetime | None


class Burials:
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

    def __init__(self, exhausted: Exhausted, letters: DeadLetterWriter, listed: Listed, stream: str) -> None:
        self._exhausted = exhausted
        self._letters = letters
        self._listed = listed
        self._stream = stream
        self._known: dict[str, dict[int, set[datetime]]] = {}
        self.written = 0
        self.too_large: set[tuple[str, int]] = set()

    async def bury(self, given_up: GivenUp, *, settles: bool) -> bool:
        """Whether it could be kept."""
        original, consumer = given_up.original, given_up.consumer
        letters = (await self._known_of(consumer)).setdefault(original.sequence, set())
        stored_at = moment_of(original.timestamp_ns)
        if stored_at not in letters:
            try:
                lent = self._as_lent(given_up)
                await insisted(self._letters.write, lent, reason=SERVER_GAVE_UP, error=None, last_seen=given_up.at)
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
        for letter in await insisted(self._letters_of, consumer):
            if letter.reason == SERVER_GAVE_UP:
                await self._settle(consumer, letter.stream_sequence, letter.attempts)

    async def _settle(self, consumer: str, sequence: int, attempts: int) -> None:
        settle = partial(self._exhausted.settle, attempts=attempts, reason=SERVER_GAVE_UP)
        try:
            await insisted(settle, self._stream, consumer, sequence)
        except ConsumerNotFound:
            log.info("%s of %s was deleted while it was swept", consumer, self._stream)

    async def _known_of(self, consumer: str) -> dict[int, set[datetime]]:
        """Sequence -> store times of what has its letter; known beyond the window in which repeats are dropped."""
        if consumer not in self._known:
            known: dict[int, set[datetime]] = {}
            for letter in await insisted(self._letters_of, consumer):
                known.setdefault(letter.stream_sequence, set()).add(letter.first_seen)
            self._known[consumer] = known
        return self._known[consumer]

    async def _letters_of(self, consumer: str) -> list[DeadLetter]:
        """All of them; reading outlives any fault, so its patience ends here."""
        found: list[DeadLetter] = []
        listed = self._listed(self._stream, consumer)
        try:
            while True:
                async with asyncio.timeout(_PATIENCE):
                    letter = await anext(listed)
                if (letter.stream, letter.consumer) == (self._stream, consumer):
                    found.append(letter)
        except StopAsyncIteration:
            return found
        except TimeoutError as exc:
            raise RequestTimeout(f"the dead letters of {consumer} could not be read in {_PATIENCE:g} s") from exc

    def _as_lent(self, given_up: GivenUp) -> Delivery:
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


async def insisted(step: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
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
