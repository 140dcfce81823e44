"""What becomes of a message: acked, given back with backoff, or dead-lettered and then terminated."""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING, Final

from broker.contracts.errors import BrokerError
from broker.contracts.failure import decide
from broker.messages import Settler

if TYPE_CHECKING:
    from broker.contracts.backend import DeliverySource
    from broker.contracts.envelopes import Delivery
    from broker.contracts.failure import OnError
    from broker.contracts.options import ConsumeOptions
    from broker.contracts.status import Stats
    from broker.dead_letters import DeadLetterWriter
    from broker.messages import StreamMessage

log = logging.getLogger("broker.handlers")

_CONFIRM_TIMEOUT: Final = 2.0
_JITTER: Final = 0.1
MAX_DELIVER: Final = "max_deliver"
"""The reason of a dead letter that used up its attempts."""
ON_ERROR: Final = "on_error"
"""The reason of one whose exception was declared to end so."""


class AttemptsExhausted(Exception):
    """Every attempt was handed out and none came to an outcome: the handler may have killed its process."""


def refuse_exhausted(delivery: Delivery, options: ConsumeOptions) -> None:
    """Raises ``AttemptsExhausted`` for a delivery beyond its attempts."""
    if delivery.attempt > options.max_deliver:
        raise AttemptsExhausted("every attempt was handed out and none came to an outcome")


class PlainSettler(Settler):
    """Settles exactly as told: for pullers, who hold the loop themselves."""

    def __init__(self, source: DeliverySource, stats: Stats) -> None:
        self._source = source
        self._stats = stats

    async def ack(self, delivery: Delivery, *, confirm: bool) -> None:
        """See ``Settler``."""
        if confirm:
            await self._source.confirm_ack(delivery, timeout=_CONFIRM_TIMEOUT)
        else:
            await self._source.ack((delivery,))
        self._stats.acked += 1

    async def nak(self, delivery: Delivery, *, delay: float | None) -> None:
        """See ``Settler``. Without a delay: at once."""
        await self._source.nak(delivery, delay=delay or 0.0)
        self._stats.naked += 1

    async def term(self, delivery: Delivery, *, reason: str) -> None:
        """See ``Settler``."""
        await self._source.term(delivery, reason=reason)
        self._stats.terminated += 1

    async def in_progress(self, delivery: Delivery) -> None:
        """See ``Settler``."""
        await self._source.extend((delivery,))
        self._stats.extended += 1


class ConsumeSettler(PlainSettler):
    """Settles by the consumption's policy: backoff between attempts, dead letters at the end."""

    def __init__(
        self, source: DeliverySource, stats: Stats, options: ConsumeOptions, letters: DeadLetterWriter | None
    ) -> None:
        super().__init__(source, stats)
        self.source = source
        self._options = options
        self._letters = letters

    async def nak(self, delivery: Delivery, *, delay: float | None) -> None:
        """Again after the backoff (or the delay asked for); a last attempt ends in the dead letters instead."""
        await self._again(delivery, None, delay)

    async def term(self, delivery: Delivery, *, reason: str) -> None:
        """Into the dead letters, confirmed, then never again."""
        await self._bury(delivery, reason, None)

    async def failed(self, message: StreamMessage, error: BaseException) -> None:
        """What a handler's exception comes to; a message the handler settled itself stays as it is."""
        if not message.mark_settled("failed"):
            return
        decision = self.decision(error)
        if decision == "drop":
            await self._drop(message.delivery, f"{ON_ERROR}: {type(error).__name__}")
        elif decision == "dead_letter":
            await self._bury(message.delivery, ON_ERROR, error)
        else:
            await self._again(message.delivery, error, None)

    def decision(self, error: BaseException) -> OnError:
        """What the declared policy says; an attempt that never came to an outcome is none of its business."""
        policy = self._options.on_error
        return decide(policy, error) if policy and not isinstance(error, AttemptsExhausted) else "retry"

    async def give_back(self, message: StreamMessage) -> None:
        """Hand it to another worker at once: this one is going."""
        if message.mark_settled("nak"):
            await super().nak(message.delivery, delay=0.0)

    async def _again(self, delivery: Delivery, error: BaseException | None, delay: float | None) -> None:
        if delivery.attempt >= self._options.max_deliver:
            await self._bury(delivery, MAX_DELIVER, error)
        else:
            await super().nak(delivery, delay=self._backoff(delivery.attempt) if delay is None else delay)

    async def _drop(self, delivery: Delivery, reason: str) -> None:
        await super().term(delivery, reason=reason)

    async def _bury(self, delivery: Delivery, reason: str, error: BaseException | None) -> None:
        if self._letters is not None:
            try:
                await self._letters.write(delivery, reason=reason, error=error)
            except BrokerError as exc:
                # Not certain to be kept, so it must not be terminated: it comes again and is buried then.
                log.exception("dead letter for %s not stored: %s", where(delivery), exc)  # noqa: TRY401 - its text is the point
                await super().nak(delivery, delay=self._backoff(delivery.attempt))
                return
        await super().term(delivery, reason=reason)

    def _backoff(self, attempt: int) -> float:
        steps = self._options.backoff
        if not steps:
            return 0.0
        return steps[min(attempt, len(steps)) - 1] * random.uniform(1.0, 1.0 + _JITTER)


def where(delivery: Delivery) -> str:
    """A delivery in a log line: subject, stream and sequence, attempt and whose."""
    what = f"{delivery.stream} sequence {delivery.sequence}, attempt {delivery.attempt} of {delivery.consumer}"
    return f"{delivery.subject!r} ({what})"
