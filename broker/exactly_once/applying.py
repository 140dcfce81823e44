"""Applying messages once: mark and effect in one transaction, ack after the commit.

Whatever is not known to be committed is tried again, and the inbox decides whether it was.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from broker.applying import SomeFailed
from broker.contracts.errors import BrokerError, InvalidKey
from broker.contracts.failure import decide
from broker.exactly_once import hooks
from broker.exactly_once.errors import DatabaseContended, DatabaseUnavailable
from broker.exactly_once.lending import Loan
from broker.exactly_once.marks import Mark, mark_of
from broker.exactly_once.patience import LeftUndone, Patience, give_back
from broker.exactly_once.trouble import OfTurn, of_turn, trouble
from broker.exactly_once.turns import turn_on
from broker.settling import AttemptsExhausted, refuse_exhausted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from broker.contracts.options import ConsumeOptions
    from broker.exactly_once.recording import Found, Recording
    from broker.exactly_once.stats import InboxStats
    from broker.exactly_once.transactions import OwnedConnection, Transactions
    from broker.messages import StreamMessage

log = logging.getLogger("broker.exactly_once")

CONFLICT: Final = "conflict"
"""The reason of a dead letter whose key was applied with another body."""


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
        self._patience = Patience(
            consumer,
            transactions=transactions,
            recording=recording,
            stats=stats,
            stopping=lambda: self.stopping(),  # noqa: PLW0108 - it is set when the consumption has begun
        )

    @property
    def in_hand(self) -> int:
        """See ``broker.applying.Applied``: here as many as handlers may run."""
        return self._options.concurrency

    @abstractmethod
    async def __call__(self, taken: Any, /) -> None:
        """See ``broker.applying.Applied``."""

    async def _call(self, given: object, tx: OwnedConnection) -> None:
        """The handler's turn in a transaction.

        Raises:
            OfTurn: see there.
        """
        try:
            with turn_on(tx) as lent:
                await self._handler(given, lent)
        except Exception as exc:
            found = None if tx.invalidated else of_turn(exc)
            if found is None:
                raise
            raise found from exc

    async def _known(self, task: Task) -> Found | None:
        """Of a message that has used up its attempts: what is known of it; ``None`` while it may be applied.

        Raises:
            AttemptsExhausted: none of them was applied.
            LeftUndone: see there.
        """
        if task.message.attempt <= self._options.max_deliver:
            return None
        known = await self._patience.until_taken([task], lambda: self._find(task))
        if not known:
            refuse_exhausted(task.message.delivery, self._options)
        return known

    async def _find(self, task: Task) -> Found:
        """Look by recording it, which waits for an attempt that is still at work somewhere, however long that takes."""
        known: Found = {}
        try:
            with suppress(GivenUp):
                async with self._transactions.begin() as tx:
                    known = await self._recording.record(tx, self._consumer, [task.mark])
                    if not known:
                        raise GivenUp
        except DatabaseContended as exc:
            raise DatabaseUnavailable(str(exc)) from exc
        return known

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
                known = await self._patience.until_taken([task], lambda: self._attempt(task))
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
                await self._finish(turn, await self._apply(turn))
                left = later
        except LeftUndone:
            await give_back(left)  # what is not settled when this returns counts as applied
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

    # Whatever goes on after a failure goes on outside of its handler: an error there would bear the mark of this one.

    async def _apply(self, turn: Sequence[Task]) -> Found:
        """Apply messages with distinct keys; what was recorded before."""
        try:
            return await self._patience.until_taken(turn, lambda: self._attempt(turn))
        except DatabaseContended as exc:
            if decide(self._options.on_error, exc) == "pause":
                raise
        return await self._each_alone(turn)  # one of them may lose every fight, and the others none

    async def _attempt(self, turn: Sequence[Task]) -> Found:
        for task in turn:
            task.error = None
        try:
            return await self._transact(turn, self._together)
        except OfTurn:
            in_savepoints = False
        except DatabaseUnavailable:
            raise
        except Exception as exc:
            if decide(self._options.on_error, exc) == "pause":
                raise
            if len(turn) == 1:
                turn[0].error = exc
                return {}
            in_savepoints = True
        known = await self._in_savepoints(turn) if in_savepoints else None
        return await self._each_alone(turn) if known is None else known

    async def _in_savepoints(self, turn: Sequence[Task]) -> Found | None:
        """One by one; ``None`` when that does not hold: whose fault it is shows when each is alone."""
        try:
            return await self._transact(turn, self._one_by_one)
        except (OfTurn, DatabaseContended):
            return None
        except DatabaseUnavailable:
            raise
        except Exception:  # noqa: BLE001 - it ended the transaction, or failed its commit
            return None

    async def _each_alone(self, turn: Sequence[Task]) -> Found:
        """Each in a transaction of its own, where one that ends it, or makes its commit fail, harms nobody else."""
        known: Found = {}
        for task in turn:
            task.error = None
            try:
                alone = partial(self._transact, [task], self._together)
                known |= await self._patience.until_taken(turn, alone)
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
