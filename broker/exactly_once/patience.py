"""How long a database is waited for, and how it is asked before a handler's error counts as its trouble."""

from __future__ import annotations

import asyncio
import logging
import os
import random
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeVar, cast
from uuid import uuid4

from broker.contracts.errors import BrokerError
from broker.exactly_once.errors import DatabaseContended, DatabaseUnavailable
from broker.exactly_once.marks import Mark
from broker.exactly_once.trouble import OfTurn

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from broker.exactly_once.applying import Task
    from broker.exactly_once.recording import Recording
    from broker.exactly_once.stats import InboxStats
    from broker.exactly_once.transactions import Transactions
    from broker.settling import ConsumeSettler

T = TypeVar("T")

log = logging.getLogger("broker.exactly_once")

_TRIES: Final = 5
"""How often a transaction that loses against others is tried before that counts as the handler's failure."""
_CONTENTION: Final = 0.02
_OUTAGE: Final = (0.1, 5.0)
"""Seconds between attempts while the database is not there: the first, and the longest."""
_LOOK: Final = 0.25
"""Seconds within which a wait notices that the consumption ends."""
_ROOM: Final = 256 * 1024
"""Bytes that a database must have room for to be well."""


class LeftUndone(Exception):
    """The consumption ends while the database is away; the messages were given back."""


class _Enough(Exception):
    """Undoes what was only tried."""


class Patience:
    """One consumption's. It ends when ``stopping`` says so."""

    def __init__(
        self,
        consumer: str,
        *,
        transactions: Transactions,
        recording: Recording,
        stats: InboxStats,
        stopping: Callable[[], bool],
    ) -> None:
        self._consumer = consumer
        self._transactions = transactions
        self._recording = recording
        self._stats = stats
        self._stopping = stopping

    async def until_taken(self, tasks: Sequence[Task], attempt: Callable[[], Awaitable[T]]) -> T:
        """Make the attempt until the database has taken it.

        What its handler brings about counts as failed after a few: a fight that is lost again and again, and an error
        that only its own statements have while the database is well.

        Raises:
            LeftUndone: see there.
        """
        lost, blamed, pause = 0, 0, _OUTAGE[0]
        while True:
            try:
                return await attempt()
            except DatabaseContended:
                lost += 1
                self._stats.contended += 1
                if lost >= _TRIES:
                    raise
                await asyncio.sleep(random.uniform(0.5, 1.5) * _CONTENTION * 2**lost)
                continue
            except DatabaseUnavailable as exc:
                error = exc
            if isinstance(error, OfTurn) and await self._is_well():
                blamed += 1
                if blamed >= _TRIES:
                    raise error.told
            else:
                self._stats.outages += 1
                log.warning("%s waits for its database: %s", self._consumer, error)
            if await self._leaving(pause * random.uniform(0.5, 1.0)):
                await give_back(tasks)
                raise LeftUndone from error
            pause = min(pause * 2, _OUTAGE[1])

    async def _is_well(self) -> bool:
        """Whether the database takes a transaction of our own, with enough in it to notice a disk that is full."""
        mark = Mark("", f" {uuid4().hex}", os.urandom(_ROOM), "", 0)
        try:
            with suppress(_Enough):
                async with self._transactions.begin() as tx:
                    await self._recording.record(tx, self._consumer, [mark])
                    raise _Enough
        except DatabaseUnavailable:
            return False
        return True

    async def _leaving(self, pause: float) -> bool:
        """Whether the consumption ends before so many seconds are over."""
        clock = asyncio.get_running_loop().time
        over = clock() + pause
        while not self._stopping():
            if (left := over - clock()) <= 0:
                return False
            await asyncio.sleep(min(left, _LOOK))
        return True


async def give_back(tasks: Iterable[Task]) -> None:
    """Hand their messages to another worker at once: this one is going."""
    for task in tasks:
        with suppress(BrokerError):
            await cast("ConsumeSettler", task.message.settler).give_back(task.message)
