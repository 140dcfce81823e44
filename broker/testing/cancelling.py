"""Cancelling at every await: run something again and again, cancelled one wait later each time.

A cancellation that nobody planned for arrives at whatever await is under way. Here it arrives at each of them in turn,
in both ways it can: while what is awaited is still to come, and when it is there already but the one who waits has not
been woken yet, which is where whatever was just acquired gets lost.
"""

from __future__ import annotations

import asyncio
import types
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Generator

T = TypeVar("T")

_MOST: Final = 1000
"""Waits of one piece of work at most: more of them never end."""
_LOOK: Final = 0.05


@dataclass(frozen=True, slots=True)
class Cancelled(Generic[T]):
    """One run that was to be cancelled.

    Attributes:
        wait: which wait it was, from 0.
        late: whether what it waited for was there already.
        reached: whether the work got so far; otherwise it finished without being disturbed.
        result: of work that was not disturbed.
        seconds: from the cancellation until the work was over.
    """

    wait: int
    late: bool
    reached: bool
    result: T | None
    seconds: float


async def cancelled_at(
    work: Callable[[], Awaitable[T]], wait: int, *, late: bool = False, within: float = 5.0
) -> Cancelled[T]:
    """Run ``work`` in a task of its own and cancel it at its ``wait``-th suspension, from 0.

    Args:
        work: called once; what it returns is awaited.
        wait: how many times it may be suspended before.
        late: cancel when what it waits for is there, before it is woken; otherwise as soon as it waits.
        within: seconds it has to end after being cancelled.

    Raises:
        AssertionError: the cancellation was swallowed, became another error, or took longer than ``within``.
        And what undisturbed work raises.
    """
    blow = _Blow(wait, late=late)
    task = asyncio.get_running_loop().create_task(blow.deal(work()), name=f"cancelled at wait {wait}")
    blow.task = task
    while not task.done() and not blow.dealt:
        await asyncio.wait({task}, timeout=_LOOK)
    await asyncio.wait({task}, timeout=within)
    seconds = monotonic() - blow.dealt if blow.dealt else 0.0
    where = f"cancelled {'late ' if late else ''}at wait {wait}"
    if not task.done():
        task.cancel()
        raise AssertionError(f"{where}: still not over after {within:g} s")
    if not blow.dealt:
        return Cancelled(wait, late, reached=False, result=task.result(), seconds=0.0)
    if task.cancelled():
        return Cancelled(wait, late, reached=True, result=None, seconds=seconds)
    error = task.exception()
    if error is not None:
        raise AssertionError(f"{where}: the cancellation became {type(error).__name__}: {error}") from error
    raise AssertionError(f"{where}: the cancellation was swallowed; it returned {task.result()!r}")


async def cancelled_everywhere(work: Callable[[], Awaitable[T]], *, within: float = 5.0) -> AsyncIterator[Cancelled[T]]:
    """Each run of ``work``, cancelled one wait later than the one before, until one finishes undisturbed.

    Every wait is met in both ways (see the module); the caller looks in between whether anything was left behind.
    The last one has ``reached`` false and the result.

    Raises:
        AssertionError: see ``cancelled_at``; or the work never finishes.
    """
    for wait in range(_MOST):
        for late in (True, False):
            run = await cancelled_at(work, wait, late=late, within=within)
            yield run
            if not run.reached:
                return
    raise AssertionError(f"not finished after {_MOST} waits")


class _Blow:
    """Counts suspensions and cancels at one of them.

    Attributes:
        task: whose.
        dealt: when, by ``time.monotonic``; 0 before.
    """

    def __init__(self, wait: int, *, late: bool) -> None:
        self.task: asyncio.Task[Any] | None = None
        self.dealt = 0.0
        self._left = wait
        self._late = late

    async def deal(self, work: Awaitable[T]) -> T:
        """The result of the work, if it comes to one."""
        return await self._stepped(work)

    @types.coroutine
    def _stepped(self, work: Awaitable[T]) -> Generator[Any, Any, T]:
        steps = work.__await__()
        step: Callable[[], Any] = steps.__next__
        while True:
            try:
                awaited = step()
            except StopIteration as over:
                result: T = over.value
                return result
            self._suspended(awaited)
            try:
                sent = yield awaited
            except BaseException as exc:  # noqa: BLE001 - whatever is thrown in is for the work
                step = _throwing(steps, exc)
            else:
                step = _sending(steps, sent)

    def _suspended(self, awaited: Any) -> None:
        self._left -= 1
        if self._left != -1:
            return
        if self._late and asyncio.isfuture(awaited):
            # Registered before the task's own wake-up, so called before it.
            awaited.add_done_callback(self._cancel)
        else:
            self._cancel(awaited)

    def _cancel(self, _awaited: object) -> None:
        assert self.task is not None
        self.dealt = monotonic()
        self.task.cancel()


def _throwing(steps: Generator[Any, Any, T], error: BaseException) -> Callable[[], Any]:
    return lambda: steps.throw(error)


def _sending(steps: Generator[Any, Any, T], value: Any) -> Callable[[], Any]:
    return lambda: steps.send(value)
