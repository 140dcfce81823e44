"""Running other people's code: plain and async handlers, their errors, and the one way to report them."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from typing import TYPE_CHECKING, Any, Final, TypeVar
from weakref import WeakKeyDictionary

from broker.contracts.errors import InvalidOption

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from broker.contracts.backend import Around
    from broker.contracts.status import Stats
    from broker.messages import Message

M = TypeVar("M", bound="Message")

log = logging.getLogger("broker.handlers")

EXITS: Final = (KeyboardInterrupt, SystemExit)
"""What ends the process goes on up, as in asyncio; anything else a handler raises is its own failure."""
STOPS: Final = (asyncio.CancelledError, *EXITS)
"""What goes on up from ``run``: there a cancellation is always meant for the task."""


def is_async(handler: Callable[..., Any]) -> bool:
    """Whether calling it makes a coroutine: ``async def``, partials of one, objects whose ``__call__`` is one."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    return any(inspect.iscoroutinefunction(each) for each in (handler, _method(handler)))


def _is_generator(handler: Callable[..., Any]) -> bool:
    """Whether calling it only makes a generator: nothing in it runs until somebody iterates."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    kinds = (inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    return any(kind(each) for kind in kinds for each in (handler, _method(handler)))


def _method(handler: Callable[..., Any]) -> Any:
    return getattr(handler, "__call__", None)  # noqa: B004 - asking for the method itself, not whether it can be called


def check_handler(handler: Callable[..., Any], given: Sequence[str] = ("message",)) -> None:
    """Refuse at once what would fail for every message.

    Raises:
        InvalidOption: it cannot be called, or not with what it is ``given``, or is a generator.
    """
    if not callable(handler):
        raise InvalidOption(f"handler {handler!r} cannot be called", option="handler")
    name = getattr(handler, "__qualname__", repr(handler))
    if _is_generator(handler):
        raise InvalidOption(f"handler {name} is a generator (it has a yield) and would never run", option="handler")
    try:
        inspect.signature(handler).bind(*given)
    except TypeError as exc:
        takes = "one message" if len(given) == 1 else f"({', '.join(given)})"
        raise InvalidOption(f"handler {name} must take {takes}: {exc}", option="handler") from exc
    except ValueError:  # a builtin that does not tell
        return


def call(handler: Callable[[M], Any], message: M, wrap: Around | None) -> Any:
    """A plain handler, inside what the backend puts around handlers (tracing), or bare when there is nothing."""
    if wrap is None:
        return handler(message)
    with wrap(message.envelope):
        return handler(message)


def refuse_coroutine(result: Any) -> None:
    """Refuse what an ``async def`` in a plain wrapper returns: nobody would ever await it.

    Raises:
        TypeError: it is a coroutine.
    """
    if inspect.iscoroutine(result):
        result.close()
        raise TypeError("the handler is a plain function but returned a coroutine; make it async def")


async def run(handler: Callable[[M], Any], message: M, wrap: Around | None) -> Any:
    """A handler of either kind; its result.

    Raises:
        HandlerCancelled: it raised ``CancelledError`` although nobody but itself cancelled this task. It has failed
            like any other; it must not end the loop that runs it.
    """
    try:
        result = call(handler, message, None) if wrap is None else await _wrapped(handler, message, wrap)
        return await result if inspect.isawaitable(result) else result
    except asyncio.CancelledError as exc:
        task = asyncio.current_task()
        if task is not None and task.cancelling() > by_themselves.get(task, 0):
            raise
        raise HandlerCancelled("the handler raised CancelledError") from exc
    finally:
        if by_themselves:
            await forgiven()


async def _wrapped(handler: Callable[[M], Any], message: M, wrap: Around) -> Any:
    with wrap(message.envelope):
        result = handler(message)
        return await result if inspect.isawaitable(result) else result


class HandlerCancelled(Exception):
    """The handler raised ``CancelledError`` by itself."""


class HandlerTask(asyncio.Task[None]):
    """A task that handlers run in. Whoever cancels it from outside means it; a handler that cancels it has failed."""

    def cancel(self, msg: Any | None = None) -> bool:
        """See ``asyncio.Task``."""
        cancelled = super().cancel(msg)
        if cancelled and asyncio.current_task(self.get_loop()) is self:  # also asked when the loop has stopped
            by_themselves[self] = by_themselves.get(self, 0) + 1
        return cancelled


by_themselves: Final[WeakKeyDictionary[asyncio.Task[Any], int]] = WeakKeyDictionary()
"""How often the handler that runs in a task has cancelled that task: nearly always nobody."""


async def forgiven() -> HandlerCancelled | None:
    """Undo what a handler did to the task it runs in, so that nothing after it is hit; its failure, if it did any."""
    task = asyncio.current_task()
    if task is None or not (times := by_themselves.pop(task, 0)):
        return None
    for _ in range(times):
        task.uncancel()
    try:
        await asyncio.sleep(0)  # where a cancellation arrives that the handler did not wait for
    except asyncio.CancelledError:
        if task.cancelling():
            raise
    return HandlerCancelled("the handler cancelled its own task")


def text_of(error: BaseException) -> str:
    """An error's text, also when asking for it raises."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a broken __str__ must not cost the message whose handler raised it
        return "(no text: its __str__ raised)"


def one_line(text: str) -> str:
    """A text as a header may hold it."""
    return " ".join(text.replace("\x00", " ").split())


def report(stats: Stats, what: str, error: BaseException) -> None:
    """Count and log a handler's error, once, with where it happened."""
    stats.handler_errors += 1
    log.error("handler failed on %s: %s: %s", what, type(error).__name__, text_of(error), exc_info=error)
