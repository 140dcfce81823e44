"""What waits behind a record that nobody answered to: one goes ahead, and the others follow in their order."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.contracts.envelopes import Receipt
from broker.contracts.errors import BrokerError, ConnectionLost, NoResponders, RequestTimeout

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from broker.contracts.envelopes import Record

Answer = asyncio.Future[Receipt]


@dataclass(slots=True)
class Waiting:
    """One record of many: its place among them, and the answer to its last attempt (``None``: not sent yet)."""

    index: int
    record: Record
    answer: Answer | None


class Tailback:
    """Records that must stay in their order while nobody answers to them; one task clears it.

    Args:
        see_through: sees one to its end, from the answer it has; the error that every record of its subject would come
            to that nobody answered to either, if it is such a one.
        resend: sends again what was not heard of, the oldest first, as much as goes in one burst.
        refuse: what became of one that is not worth another attempt.
    """

    def __init__(
        self,
        see_through: Callable[[int, Record, Answer | None], Awaitable[BrokerError | None]],
        resend: Callable[[deque[Waiting]], None],
        refuse: Callable[[int, BrokerError], None],
    ) -> None:
        self._see_through = see_through
        self._resend = resend
        self._refuse = refuse
        self._waiting: deque[Waiting] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def join(self, waiting: Waiting) -> None:
        """Wait behind all that are here."""
        self._waiting.append(waiting)

    async def clear(self) -> None:
        """See every one through, in order; returns when nobody waits any more."""
        while self._waiting:
            first = self._waiting[0]
            if first.answer is not None:
                await asyncio.wait({first.answer})
            at_once = first.answer is not None and first.answer.exception() is None
            shared = await self._see_through(first.index, first.record, first.answer)
            self._waiting.popleft()
            if shared is not None:
                self._turn_away(first.record.subject, shared)
            if not at_once:
                self._resend(self._waiting)

    def answers(self) -> list[Answer]:
        """What is still hoped for; for whoever gives up."""
        return [each.answer for each in self._waiting if each.answer is not None]

    def _turn_away(self, subject: str, error: BrokerError) -> None:
        kept: deque[Waiting] = deque()
        for each in self._waiting:
            if each.record.subject == subject and not_heard(each.answer, NoResponders):
                self._refuse(each.index, error)
            else:
                kept.append(each)
        self._waiting = kept


def not_heard(
    answer: Answer | None,
    kinds: type[BrokerError] | tuple[type[BrokerError], ...] = (ConnectionLost, RequestTimeout, NoResponders),
) -> bool:
    """Whether an attempt is over without the word of a stream."""
    return answer is not None and answer.done() and isinstance(answer.exception(), kinds)
