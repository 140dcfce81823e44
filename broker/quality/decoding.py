"""From a message to the event that its contract declares, around the user's handler."""

from __future__ import annotations

import inspect
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from broker.contracts.errors import AlreadySettled, DecodeError, InvalidOption
from broker.contracts.event_errors import MalformedEvent
from broker.handling import check_handler, is_async
from broker.quality.losses import Gaps

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from broker.contracts.event_contracts import Contract
    from broker.messages import Message, StreamMessage
    from broker.quality.stats import ContractStats

log = logging.getLogger("broker.quality")


class Decoding:
    """A handler of events as one of messages.

    Raises:
        InvalidOption: it cannot be called with what it is to get.
    """

    def __init__(
        self, contract: Contract, stats: ContractStats, handler: Callable[..., Any], *, given: Sequence[str]
    ) -> None:
        self._contract = contract
        self._stats = stats
        self._handler = handler
        self._tells = _takes_message(handler)
        check_handler(partial(handler, message=None) if self._tells else handler, given)

    # -- core: dropped when it is not the event

    def from_core(self, *, counts_gaps: bool) -> Callable[[Message], Any]:
        """For ``subscribe``."""
        gaps = Gaps() if counts_gaps else None

        def event_of(message: Message) -> Any:
            self._stats.received += 1
            if gaps is not None:
                self._stats.lost += gaps.missing(message.envelope.headers)
            try:
                return self.event(message)
            except MalformedEvent as exc:
                self._stats.malformed += 1
                if self._stats.malformed == 1:
                    log.warning("dropped, and counted from now on: %s", exc)
                raise _Dropped from exc

        async def awaited(message: Message) -> None:
            try:
                event = event_of(message)
            except _Dropped:
                return
            await self._handler(event, **self._besides(message))

        def inline(message: Message) -> Any:
            try:
                event = event_of(message)
            except _Dropped:
                return None
            return self._handler(event, **self._besides(message))

        return awaited if is_async(self._handler) else inline

    # -- stream: a dead letter when it is not the event

    def from_stream(self) -> Callable[..., Any]:
        """For ``consume``, one message at a time."""

        async def awaited(message: StreamMessage) -> None:
            await self._handler(self.counted(message), **self._besides(message))

        def inline(message: StreamMessage) -> Any:
            return self._handler(self.counted(message), **self._besides(message))

        return awaited if is_async(self._handler) else inline

    def from_batches(self) -> Callable[..., Any]:
        """For ``consume(batch_size=)``: the handler gets the list of those that are events.

        Raises:
            InvalidOption: the handler is a plain function.
        """
        if not is_async(self._handler):
            raise InvalidOption("batch_size= needs an async def handler of a list of events", option="handler")

        async def awaited(messages: Sequence[StreamMessage]) -> None:
            if whole := await self.whole(messages):
                await self._handler([self.event(each) for each in whole], **self._besides(whole))

        return awaited

    async def once(self, message: StreamMessage, tx: Any) -> Any:
        """For ``consume(inbox=)``; what is not the event does not get here."""
        return await self._handler(self.event(message), tx, **self._besides(message))

    async def once_each(self, messages: Sequence[StreamMessage], tx: Any) -> Any:
        """The same for lists."""
        return await self._handler([self.event(each) for each in messages], tx, **self._besides(messages))

    def event(self, message: Message) -> Any:
        """What the message carries.

        Raises:
            MalformedEvent: not that.
        """
        try:
            return message.decode(self._contract.event)
        except DecodeError as exc:
            raise MalformedEvent(f"{self._contract.name}: {exc}", subject=message.subject) from exc

    def counted(self, message: StreamMessage) -> Any:
        """The same, and count the delivery."""
        self._stats.received += 1
        self._stats.redelivered += message.attempt > 1
        try:
            return self.event(message)
        except MalformedEvent:
            self._stats.malformed += 1
            raise

    async def whole(self, messages: Sequence[StreamMessage]) -> list[StreamMessage]:
        """Those that are events; each of the others is a dead letter."""
        found = []
        for message in messages:
            try:
                self.counted(message)
            except MalformedEvent as exc:
                await _bury(message, exc)
            else:
                found.append(message)
        return found

    def _besides(self, message: object) -> dict[str, Any]:
        return {"message": message} if self._tells else {}


class _Dropped(Exception):
    """Nothing to hand over."""


async def _bury(message: StreamMessage, error: MalformedEvent) -> None:
    try:
        await message.term(f"{type(error).__name__}: {error}")
    except AlreadySettled:
        return


def _takes_message(handler: Callable[..., Any]) -> bool:
    """Whether it has a keyword-only parameter ``message``."""
    try:
        asked = inspect.signature(handler).parameters.get("message")
    except (TypeError, ValueError):  # not callable, or a builtin that does not tell
        return False
    return asked is not None and asked.kind is inspect.Parameter.KEYWORD_ONLY
