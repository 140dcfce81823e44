"""Sharing a transaction: messages that wait for the same SQLite file go in together.

The file takes one writer at a time anyway, and a commit costs more than everything in it. Each handler still runs in
its own task, one after the other; marks are written last, so that none is there without its effect. When one of them
fails, nothing of that transaction stands: the others run again, each in a savepoint of its own until it has gone well
for a while. A savepoint costs two statements, and failures are rare.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from broker.exactly_once import hooks
from broker.exactly_once.applying import Applying, GivenUp, LeftUndone, Task
from broker.exactly_once.errors import DatabaseContended, DatabaseUnavailable
from broker.exactly_once.trouble import trouble

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.exactly_once.recording import Found
    from broker.exactly_once.transactions import OwnedConnection

_MOST: Final = 64
_BUDGET: Final = 0.020
"""Seconds of handlers after which no further one joins: others want to write, and a crash repeats all of it."""
_CAREFUL: Final = 64
"""Messages that get savepoints after one has failed."""


class Disturbed(Exception):
    """Another message of the same transaction failed: nothing of it stands, and it is tried again."""


class Member(NamedTuple):
    """One message in a shared transaction.

    Attributes:
        turn: its handler may run, on this connection; ``None``: it need not, see ``over``.
        left: its handler is done; whether it applied the message. An error undoes the whole transaction.
        over: what was known of the marks, once the transaction is committed.
    """

    task: Task
    turn: asyncio.Future[OwnedConnection | None]
    left: asyncio.Future[bool]
    over: asyncio.Future[Found]

    @classmethod
    def of(cls, task: Task) -> Member:
        """A member that waits."""
        loop = asyncio.get_running_loop()
        return cls(task, loop.create_future(), loop.create_future(), loop.create_future())


class ApplyingShared(Applying):
    """A transaction for as many messages as are there when it begins."""

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self._waiting: deque[Member] = deque()
        self._careful = 0
        self._runner: asyncio.Task[None] | None = None

    async def __call__(self, taken: Any, /) -> None:
        """Apply one message."""
        task = Task.of(taken)
        with suppress(LeftUndone):
            known = await self._patiently([task], lambda: self._attempt(task))
            await self._finish([task], known)

    async def _attempt(self, task: Task) -> Found:
        while True:
            with suppress(Disturbed):
                return await self._join(task)

    async def _join(self, task: Task) -> Found:
        member = Member.of(task)
        self._waiting.append(member)
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run(), name=f"apply for {self._consumer}")
        try:
            tx = await member.turn
        except BaseException:
            if not member.turn.cancelled():  # it came, and nothing was done in it
                member.left.set_result(False)
            raise
        if tx is not None:
            await self._take_turn(member, tx)
        return await member.over

    async def _take_turn(self, member: Member, tx: OwnedConnection) -> None:
        """Run the handler. A failure is this member's alone if it has a savepoint; else the others run again."""
        careful, self._careful = self._careful > 0, max(0, self._careful - 1)
        try:
            failure = await self._handle(member.task, tx, careful=careful)
        except BaseException:
            member.left.set_exception(Disturbed())
            raise
        if failure is None:
            member.left.set_result(True)
            return
        self._careful = _CAREFUL
        found = trouble(failure, ours=tx.invalidated)
        if found is not None:
            member.left.set_exception(found)
            return
        if careful and self._transactions.is_whole(tx):
            member.left.set_result(False)
        else:
            member.left.set_exception(Disturbed())
            member.over.set_result({})
        if not isinstance(failure, GivenUp):
            raise failure

    async def _handle(self, task: Task, tx: OwnedConnection, *, careful: bool) -> Exception | None:
        """Run its handler; why its message is not applied. What ends the transaction also breaks the way back."""
        failure: Exception | None = None
        try:
            async with self._transactions.alone(tx) if careful else nullcontext():
                try:
                    await self._call(task.loan.lend(), tx)
                    task.check()
                    self._transactions.check_whole(tx)
                except Exception as exc:
                    failure = exc
                    raise
        except Exception as exc:  # noqa: BLE001 - the caller raises it when everybody else knows
            return failure or exc
        return None

    async def _run(self) -> None:
        while self._waiting:
            if not (members := self._next_members()):
                continue
            try:
                known = await self._share(members)
            except Exception as exc:  # noqa: BLE001 - it is told to each of them
                _tell(members, error=_shared_blame(members, exc))
            except BaseException:
                _tell(members, error=DatabaseContended("the transaction was cut short"))
                raise
            else:
                _tell(members, known=known)

    def _next_members(self) -> list[Member]:
        """The first of each key, in their order, or one alone; the others wait for what becomes of these."""
        members: dict[tuple[str, str], Member] = {}
        later: list[Member] = []
        while self._waiting and len(members) < _MOST:
            member = self._waiting.popleft()
            if member.task.alone and not member.turn.cancelled():
                if members:
                    self._waiting.appendleft(member)
                else:
                    members[member.task.name] = member
                break
            if not member.turn.cancelled() and members.setdefault(member.task.name, member) is not member:
                later.append(member)
        self._waiting.extendleft(reversed(later))
        return list(members.values())

    async def _share(self, members: list[Member]) -> Found:
        """One transaction; who had no turn in it waits again, and is taken out of ``members``."""
        clock = asyncio.get_running_loop().time
        async with self._transactions.begin() as tx:
            known = await self._recording.known(tx, self._consumer, sorted(each.task.mark for each in members))
            until, applied = clock() + _BUDGET, []
            for index, member in enumerate(members):
                if index and clock() > until:
                    self._wait_again(members, index)
                    break
                if member.task.name not in known and await _run_handler(member, tx):
                    applied.append(member.task.mark)
                    hooks.reached("mid_batch")
            if applied and await self._recording.record(tx, self._consumer, sorted(applied)):
                raise DatabaseContended("somebody has applied one of them meanwhile, past the file's lock")
        return known

    def _wait_again(self, members: list[Member], index: int) -> None:
        self._waiting.extendleft(reversed(members[index:]))
        del members[index:]


async def _run_handler(member: Member, tx: OwnedConnection) -> bool:
    """Give it its turn; whether its message is applied now."""
    if member.turn.cancelled():
        return False
    member.turn.set_result(tx)
    return await member.left


def _shared_blame(members: Sequence[Member], error: Exception) -> Exception:
    """What each is told. Whose fault it is that the commit fails shows when each has a transaction for itself."""
    if len(members) == 1 or isinstance(error, Disturbed | DatabaseUnavailable):
        return error
    for member in members:
        member.task.alone = True
    return Disturbed()


def _tell(members: Sequence[Member], *, known: Found | None = None, error: BaseException | None = None) -> None:
    for member in members:
        if not member.turn.done():
            member.turn.set_result(None)
        if member.over.done():
            continue
        if error is not None:
            member.over.set_exception(error)
            member.over.exception()  # whoever was cancelled or has failed by itself does not ask for it
        else:
            member.over.set_result(known or {})
