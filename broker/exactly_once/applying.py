"""Applying messages once: mark and effect in one transaction, ack after the commit.

Whatever is not known to be committed is tried again, and the inbox decides whether it was.
"""

from __future__ import annotations

import asyncio
import logging
import random
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from broker.applying import SomeFailed
from broker.contracts.errors import BrokerError, InvalidKey
from broker.contracts.failure import decide
from broker.exactly_once import hooks
from broker.exactly_once.errors import DatabaseContended, DatabaseUnavailable
from broker.exactly_once.lending import Loan
from broker.exactly_once.marks import Mark, mark_of
from broker.exactly_once.trouble import trouble
from broker.exactly_once.turns import turn_on
from broker.settling import AttemptsExhausted, refuse_exhausted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from broker.contracts.options import ConsumeOptions
    from broker.exactly_once.recording import Found, Recording
    from broker.exactly_once.stats import InboxStats
    from broker.exactly_once.transactions import OwnedConnection, Transactions
    from broker.messages import StreamMessage
    from broker.settling import ConsumeSettler

T = TypeVar("T")

log = logging.getLogger("broker.exactly_once")

CONFLICT: Final = "conflict"
"""The reason of a dead letter whose key was applied with another body."""

_TRIES: Final = 5
"""How often a transaction that loses against others is tried before that counts as the handler's failure."""
_CONTENTION: Final = 0.02
_OUTAGE: Final = (0.1, 5.0)
"""Seconds between attempts while the database is not there: the first, and the longest."""
_LOOK: Final = 0.25
"""Seconds within which a wait notices that the consumption ends."""


@dataclass(slots=True, eq=False)
class Task:
    """A message to apply.

    Attributes:
        alone: it has its next transaction for itself.
        error: why it is not applied, once its handler has failed.
    """

    mark: Mark
    message: StreamMessage
    loan: Loan
    error: Exception | None = None
    alone: bool = False

    @classmethod
    def of(cls, message: StreamMessage) -> Task:
        """The task that a message is.

        Raises:
            InvalidKey: see ``mark_of``.
        """
        return cls(mark_of(message), message, Loan(message))

    @property
    def name(self) -> tuple[str, str]:
        """What its mark is found by."""
        return self.mark.subject, self.mark.key

    def check(self) -> None:
        """Raises ``GivenUp`` when its handler said so."""
        if self.loan.given_up:
            raise GivenUp


class GivenUp(Exception):
    """Undoes what a handler did for a message before it said that it is not applied."""


class LeftUndone(Exception):
    """The consumption ends while the database is away; the messages were given back."""


class Applying(ABC):
    """What the two kinds of handlers have in common."""

    def __init__(
        self,
        handler: Callable[..., Awaitable[Any]],
        *,
        consumer: str,
        options: ConsumeOptions,
        transactions: Transactions,
        recording: Recording,
        stats: InboxStats,
    ) -> None:
        self.stopping: Callable[[], bool] = lambda: False
        self._handler = handler
        self._consumer = consumer
        self._options = options
        self._transactions = transactions
        self._recording = recording
        self._stats = stats

    @property
    def in_hand(self) -> int:
        """See ``broker.applying.Applied``: here as many as handlers may run."""
        return self._options.concurrency

    @abstractmethod
    async def __call__(self, taken: Any, /) -> None:
        """See ``broker.applying.Applied``."""

    async def _call(self, given: object, tx: OwnedConnection) -> None:
        """The handler's turn in a transaction."""
        with turn_on(tx) as lent:
            await self._handler(given, lent)

    async def _known(self, task: Task) -> Found | None:
        """Of a message that has used up its attempts: what is known of it; ``None`` while it may be applied.

        Raises:
            AttemptsExhausted: none of them was applied.
            LeftUndone: see there.
        """
        if task.message.attempt <= self._options.max_deliver:
            return None
        known = await self._patiently([task], lambda: self._find(task))
        if not known:
            refuse_exhausted(task.message.delivery, self._options)
        return known

    async def _find(self, task: Task) -> Found:
        async with self._transactions.reading() as connection:
            return await self._recording.find(connection, self._consumer, [task.name])

    async def _patiently(self, tasks: Sequence[Task], attempt: Callable[[], Awaitable[T]]) -> T:
        """Make the attempt until the database has taken it; a lost fight counts as failed after a few.

        Raises:
            LeftUndone: see there.
        """
        lost, pause = 0, _OUTAGE[0]
        while True:
            try:
                return await attempt()
            except DatabaseContended:
                lost += 1
                self._stats.contended += 1
                if lost >= _TRIES:
                    raise
                await asyncio.sleep(random.uniform(0.5, 1.5) * _CONTENTION * 2**lost)
            except DatabaseUnavailable as exc:
                self._stats.outages += 1
                log.warning("%s waits for its database: %s", self._consumer, exc)
                if await self._leaving(pause * random.uniform(0.5, 1.0)):
                    await _give_back(tasks)
                    raise LeftUndone from exc
                pause = min(pause * 2, _OUTAGE[1])

    async def _leaving(self, pause: float) -> bool:
        """Whether the consumption ends before so many seconds are over."""
        clock = asyncio.get_running_loop().time
        over = clock() + pause
        while not self.stopping():
            if (left := over - clock()) <= 0:
                return False
            await asyncio.sleep(min(left, _LOOK))
        return True

    async def _finish(self, tasks: Iterable[Task], known: Found) -> None:
        """What follows from a transaction that was committed; what is left unsettled is acked by the loop."""
        for task in tasks:
            digest = known.get(task.name)
            if digest is not None:
                await self._settle_known(task, digest)
            elif task.error is None:
                self._stats.applied += not task.loan.given_up
                await task.loan.carry_out()

    async def _settle_known(self, task: Task, digest: bytes) -> None:
        """One that was applied before: its repeat is done, another body under its key is a conflict."""
        if digest == task.mark.digest:
            self._stats.duplicates += 1
            return
        self._stats.conflicts += 1
        message = task.message
        log.error("%s %d: key %r was applied with another body", message.stream, message.sequence, task.mark.key)
        try:
            await message.term(CONFLICT)
        except BrokerError as exc:
            log.warning("could not settle %s %d: %s", message.stream, message.sequence, exc)


class ApplyingEach(Applying):
    """A transaction for each message."""

    async def __call__(self, taken: Any, /) -> None:
        """Apply one message."""
        task = Task.of(taken)
        with suppress(LeftUndone):
            known = await self._known(task)
            if known is None:
                known = await self._patiently([task], lambda: self._attempt(task))
            await self._finish([task], known)

    async def _attempt(self, task: Task) -> Found:
        """Apply it unless it was; what was recorded before, empty when it is applied now."""
        with suppress(GivenUp):
            async with self._transactions.begin() as tx:
                known = await self._recording.record(tx, self._consumer, [task.mark])
                if not known:
                    await self._call(task.loan.lend(), tx)
                    task.check()
                return known
        return {}


class ApplyingBatch(Applying):
    """A transaction for each batch.

    When the handler fails on it, it is called once more for each message alone, in a savepoint, so that one bad message
    costs the others nothing; and in a transaction of its own when even that does not hold.
    """

    async def __call__(self, taken: Any, /) -> None:
        """Apply a list of messages."""
        tasks, failed = _tasks_of(taken)
        left = tasks
        try:
            left = [task for task in tasks if not await self._is_over(task)]
            while left:
                turn, later = _one_of_each_key(left)
                known = await self._patiently(turn, lambda turn=turn: self._attempt(turn))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
                await self._finish(turn, known)
                left = later
        except LeftUndone:
            await _give_back(left)  # what is not settled when this returns counts as applied
        failed.update((task.message, task.error) for task in tasks if task.error is not None)
        if failed:
            raise SomeFailed(failed)

    async def _is_over(self, task: Task) -> bool:
        """Whether it has used up its attempts; then it has its outcome."""
        try:
            known = await self._known(task)
        except AttemptsExhausted as exc:
            task.error = exc
            return True
        if known is not None:
            await self._finish([task], known)
        return known is not None

    async def _attempt(self, turn: Sequence[Task]) -> Found:
        """Apply messages with distinct keys; what was recorded before."""
        for task in turn:
            task.error = None
        try:
            return await self._transact(turn, self._together)
        except DatabaseUnavailable:
            raise
        except Exception as exc:
            if decide(self._options.on_error, exc) == "pause":
                raise
            if len(turn) == 1:
                turn[0].error = exc
                return {}
        try:
            return await self._transact(turn, self._one_by_one)
        except DatabaseUnavailable:
            raise
        except Exception:  # noqa: BLE001 - it ended the transaction or failed its commit: whose fault it is shows next
            return await self._each_alone(turn)

    async def _each_alone(self, turn: Sequence[Task]) -> Found:
        """Each in a transaction of its own, where one that ends it, or makes its commit fail, harms nobody else."""
        known: Found = {}
        for task in turn:
            task.error = None
            try:
                known |= await self._patiently(turn, lambda task=task: self._transact([task], self._together))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
            except LeftUndone:
                for each in turn:
                    each.error = None
                raise
            except Exception as exc:  # noqa: BLE001 - it is this message's outcome
                task.error = exc
        return known

    async def _transact(
        self, turn: Sequence[Task], run: Callable[[OwnedConnection, Sequence[Task]], Awaitable[Sequence[Mark]]]
    ) -> Found:
        """Record their marks, let ``run`` do the rest, take back the marks of what it says is not applied."""
        async with self._transactions.begin() as tx:
            marks = sorted(task.mark for task in turn)
            known = await self._recording.record(tx, self._consumer, marks)
            hooks.reached("mid_batch")
            fresh = [task for task in turn if task.name not in known]
            if fresh and (undone := await run(tx, fresh)):
                await self._recording.forget(tx, self._consumer, undone)
        return known

    async def _together(self, tx: OwnedConnection, fresh: Sequence[Task]) -> Sequence[Mark]:
        await self._call([task.loan.lend() for task in fresh], tx)
        return [task.mark for task in fresh if task.loan.given_up]

    async def _one_by_one(self, tx: OwnedConnection, fresh: Sequence[Task]) -> Sequence[Mark]:
        undone = []
        for task in fresh:
            task.error = None
            try:
                async with self._transactions.alone(tx):
                    await self._call([task.loan.lend()], tx)
                    task.check()
            except GivenUp:
                undone.append(task.mark)
            except Exception as exc:
                if trouble(exc, ours=tx.invalidated) is not None or not self._transactions.is_whole(tx):
                    raise
                task.error = exc
                undone.append(task.mark)
            hooks.reached("mid_batch")
        return undone


def _tasks_of(messages: Iterable[StreamMessage]) -> tuple[list[Task], dict[StreamMessage, Exception]]:
    """The task that each message is, and why some are none."""
    tasks: list[Task] = []
    failed: dict[StreamMessage, Exception] = {}
    for message in messages:
        try:
            tasks.append(Task.of(message))
        except InvalidKey as exc:
            failed[message] = exc
    return tasks, failed


def _one_of_each_key(tasks: Iterable[Task]) -> tuple[list[Task], list[Task]]:
    """The first task of each key, and the others: what becomes of the first decides about its repeats."""
    first: dict[tuple[str, str], Task] = {}
    others = [task for task in tasks if first.setdefault(task.name, task) is not task]
    return list(first.values()), others


async def _give_back(tasks: Iterable[Task]) -> None:
    for task in tasks:
        with suppress(BrokerError):
            await cast("ConsumeSettler", task.message.settler).give_back(task.message)
