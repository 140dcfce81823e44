"""Sharing a transaction: messages that wait for the same SQLite file go in together.

The file takes one writer at a time anyway, and a commit costs more than everything in it. Each handler still runs in
its own task, one after the other, and who comes while a transaction is open joins it: two halves taking turns would pay
for twice as many commits. When a handler fails, nothing of that transaction stands: the others run again, each in a
savepoint of its own until it has gone well for a while. A savepoint costs two statements, and failures are rare.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from broker.exactly_once import hooks
from broker.exactly_once.applying import Applying, GivenUp, Task
from broker.exactly_once.errors import DatabaseContended, DatabaseUnavailable
from broker.exactly_once.patience import LeftUndone
from broker.exactly_once.trouble import OfTurn, trouble

if TYPE_CHECKING:
    from broker.exactly_once.marks import Mark
    from broker.exactly_once.recording import Found
    from broker.exactly_once.transactions import OwnedConnection

_MOST: Final = 64
"""Messages of a transaction."""
_JOINING: Final = 16
"""Marks recorded at a time: those whose handlers get no turn any more are taken back."""
_BUDGET: Final = 0.020
"""Seconds of handlers after which nobody joins any more: others want to write, and a crash repeats all of it."""
_OVERTIME: Final = 0.010
"""Seconds more for those who have joined; to take their marks back costs as much as a short handler."""
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


Members = dict[tuple[str, str], Member]
"""Who is in a transaction, each under another key."""


class ApplyingShared(Applying):
    """A transaction for as many messages as are there until it ends."""

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self._waiting: deque[Member] = deque()
        self._careful = 0
        self._runner: asyncio.Task[None] | None = None

    @property
    def in_hand(self) -> int:
        """A transaction's worth, since a commit costs the same for all of them; one by one if that was asked for."""
        at_once = super().in_hand
        return at_once if at_once == 1 else max(at_once, _MOST)

    async def __call__(self, taken: Any, /) -> None:
        """Apply one message."""
        task = Task.of(taken)
        with suppress(LeftUndone):
            known = await self._known(task)
            if known is None:
                known = await self._patience.until_taken([task], lambda: self._attempt(task))
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
        if isinstance(found, OfTurn | DatabaseContended):  # again and again, perhaps: that is to disturb nobody else
            member.task.alone, failure = True, found
        elif found is not None:
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
            members: Members = {}
            if not (first := self._joining(members)):
                continue
            try:
                known = await self._share(members, first)
            except Exception as exc:  # noqa: BLE001 - it is told to each of them
                _tell(members, error=_shared_blame(members, exc))
            except BaseException:
                _tell(members, error=DatabaseContended("the transaction was cut short"))
                raise
            else:
                _tell(members, known=known)

    def _joining(self, members: Members) -> list[Member]:
        """The first of each key that waits, or one alone, now members; the others wait for what becomes of these."""
        joining, later = [], []
        most = min(_MOST, len(members) + _JOINING)
        while self._waiting and len(members) < most:
            if members and (self._waiting[0].task.alone or next(iter(members.values())).task.alone):
                break
            member = self._waiting.popleft()
            if member.turn.cancelled():
                continue
            if members.setdefault(member.task.name, member) is member:
                joining.append(member)
            else:
                later.append(member)
        self._waiting.extendleft(reversed(later))
        return joining

    async def _share(self, members: Members, joining: list[Member]) -> Found:
        """One transaction; who had no turn in it waits again, and is no member any more."""
        clock = asyncio.get_running_loop().time
        known: Found = {}
        undone: list[Mark] = []
        late: list[Member] = []
        async with self._transactions.begin() as tx:
            until = clock() + _BUDGET
            while joining:
                marks = sorted(member.task.mark for member in joining)
                known |= await self._recording.record(tx, self._consumer, marks)
                for member in joining:
                    if member.task.name in known:
                        continue
                    if clock() > until + _OVERTIME and member is not joining[0]:
                        late.append(member)
                    elif await _run_handler(member, tx):
                        hooks.reached("mid_batch")
                        continue
                    undone.append(member.task.mark)
                joining = self._joining(members) if clock() <= until else []
            if undone:
                await self._recording.forget(tx, self._consumer, undone)
        for member in late:
            del members[member.task.name]
        self._waiting.extendleft(reversed(late))
        return known


async def _run_handler(member: Member, tx: OwnedConnection) -> bool:
    """Give it its turn; whether its message is applied now."""
    if member.turn.cancelled():
        return False
    member.turn.set_result(tx)
    return await member.left


def _shared_blame(members: Members, error: Exception) -> Exception:
    """What each is told. Whose fault it is that the commit fails shows when each has a transaction for itself."""
    if len(members) == 1 or isinstance(error, Disturbed | DatabaseUnavailable):
        return error
    for member in members.values():
        member.task.alone = True
    return Disturbed()


def _tell(members: Members, *, known: Found | None = None, error: BaseException | None = None) -> None:
    for member in members.values():
        if not member.turn.done():
            member.turn.set_result(None)
        if member.over.done():
            continue
        if error is not None:
            member.over.set_exception(error)
            member.over.exception()  # whoever was cancelled or has failed by itself does not ask for it
        else:
            member.over.set_result(known or {})
