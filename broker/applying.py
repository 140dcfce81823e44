"""The seam between consuming and an inbox: a handler whose effect is recorded in the transaction that holds it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from broker.contracts.errors import InvalidOption
from broker.handling import check_handler, is_async

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from broker.contracts.backend import StreamBackend
    from broker.contracts.options import ConsumeOptions, ConsumerOptions, StreamOptions
    from broker.messages import StreamMessage

    Handler = (
        Callable[[StreamMessage], Any]
        | Callable[[list[StreamMessage]], Any]
        | Callable[[StreamMessage, Any], Awaitable[Any]]
        | Callable[[list[StreamMessage], Any], Awaitable[Any]]
    )
    """What ``consume`` calls: with what it took, and with an inbox also with the transaction."""


class Stopping(Protocol):
    """What works through messages until it is told to stop."""

    @property
    def stopping(self) -> bool:
        """Whether it was."""


C = TypeVar("C", bound=Stopping)


class Applied(Protocol):
    """An ``async def`` handler of one message, or of a list: returning means committed, or applied before.

    A message beyond its ``max_deliver`` attempts is looked up only: one of them may have been applied, its ack lost.

    Raises:
        AttemptsExhausted: none of them was.
        SomeFailed: of a list, some are not applied; the rest is.

    Attributes:
        stopping: whether the consumption is coming to its end, so that waiting for a database is no use.
        in_hand: how many calls it makes use of at the same time; those that its handler has no turn for wait.
    """

    stopping: Callable[[], bool]

    @property
    def in_hand(self) -> int:
        """See there."""

    async def __call__(self, taken: Any, /) -> None:
        """Apply it once. A conflict it settles itself, and whatever the handler settled."""


class Inbox(Protocol):
    """What ``consume(inbox=...)`` takes: ``broker.exactly_once.Inbox``, or one for another kind of database."""

    async def check(self, stream: StreamOptions | None) -> None:
        """Refuse at the start what could not be kept, for messages of that stream when it is known."""

    def applying(self, handler: Callable[..., Any], *, consumer: str, options: ConsumeOptions) -> Applied:
        """The handler ``(msg, tx)`` or ``(list, tx)`` as one that consuming calls with what it took."""


class SomeFailed(Exception):
    """Of a list, these messages failed; the others are done."""

    def __init__(self, errors: Mapping[StreamMessage, Exception]) -> None:
        super().__init__(f"{len(errors)} of the messages failed")
        self.errors = errors


def check_async(handler: Callable[..., Any]) -> None:
    """Raises ``InvalidOption`` for a plain function."""
    if not is_async(handler):
        told = "inbox= needs an async def handler(msg, tx): what it does on tx must be awaited"
        raise InvalidOption(told, option="handler")


def check_inbox(inbox: object) -> None:
    """Raises ``InvalidOption`` for what is no inbox."""
    if not hasattr(inbox, "applying"):
        raise InvalidOption(f"inbox={inbox!r}: must be an Inbox (broker.exactly_once)", option="inbox")


async def consume_once(
    inbox: Inbox,
    handler: Callable[..., Any],
    consumer: ConsumerOptions,
    options: ConsumeOptions,
    *,
    backend: StreamBackend,
    work: Callable[[Applied, ConsumerOptions, ConsumeOptions], Awaitable[C]],
) -> C:
    """``work`` with the handler and its inbox, everything checked that can be before a message is taken.

    Raises:
        InvalidOption: the options and the inbox contradict each other.
        What ``inbox.check`` raises.
    """
    check_inbox(inbox)
    check_handler(handler, ("msg", "tx"))
    check_async(handler)
    if consumer.durable is None:
        told = "inbox= needs durable= or queue=: a name under which keys are remembered"
        raise InvalidOption(told, option="durable")
    if consumer.headers_only:
        raise InvalidOption("inbox= compares bodies; headers_only=True delivers none", option="headers_only")
    if not options.dead_letter:
        told = "inbox= with dead_letter=False: a key with another body would vanish; it belongs into the dead letters"
        raise InvalidOption(told, option="dead_letter")
    stream = None
    if consumer.ensure != "bind" and (name := consumer.stream or await backend.find_stream(consumer.filters[0])):
        stream = (await backend.stream_info(name)).config
    await inbox.check(stream)
    options = replace(options, once=True)
    applied = inbox.applying(handler, consumer=consumer.durable, options=options)
    consumption = await work(applied, consumer, replace(options, concurrency=applied.in_hand))
    applied.stopping = lambda: consumption.stopping
    return consumption
