"""Where a consumption's deliveries come from: a source, opened, and opened again when its consumer is gone."""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from broker.contracts.errors import ApiError, BrokerError, ConnectionLost, ConsumerGone, RequestTimeout
from broker.contracts.events import ConsumerEventKind
from broker.interruptible import Interruptible
from broker.recess import Recess
from broker.settling import ConsumeSettler

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from broker.announcing import Announcer
    from broker.contracts.backend import DeliverySource, StreamBackend
    from broker.contracts.envelopes import Delivery
    from broker.contracts.errors import ConsumerNotFound
    from broker.contracts.options import ConsumeOptions, ConsumerOptions
    from broker.dead_letters import DeadLetterWriter
    from broker.messages import StreamMessage

    OpenConsumer = Callable[[ConsumerOptions], Awaitable[DeliverySource]]
    SettlerFor = Callable[[DeliverySource], ConsumeSettler]

log = logging.getLogger("broker.consuming")

REOPEN_PAUSE: Final = (0.1, 2.0)
"""Seconds between attempts to open again: the first, and the longest."""


_SHORTEST: Final = 0.2
"""Seconds between two extensions at least, whatever a consumer seems to want."""


class Supply:
    """A consumer's source and who settles what came from it.

    Attributes:
        consumer: as declared.
        source: open now; another one after ``reopen``.
        settler: settles what came from ``source``.
        waits: the loop's waits, which pausing and draining cut short.
        recess: ``None`` when no error calls for one.
        stopping: the consumption is coming to its end: no more is asked for.
    """

    source: DeliverySource
    settler: ConsumeSettler

    def __init__(
        self,
        consumer: ConsumerOptions,
        options: ConsumeOptions,
        backend: StreamBackend,
        letters: DeadLetterWriter | None,
        announcer: Announcer,
        open_consumer: OpenConsumer | None = None,
        settler_for: SettlerFor | None = None,
    ) -> None:
        self.consumer = consumer
        self.backend = backend
        self.waits = Interruptible()
        self.stopping = False
        pauses = "pause" in options.on_error.values()
        self.recess = Recess(options, announcer, self.waits) if pauses else None
        self._extend_every = consumer.ack_wait / 3
        self._extended_at = 0.0
        self._sooner = asyncio.Event()
        self._stays = consumer.unnamed
        self._letters = letters
        self._settler_for = settler_for or (lambda each: ConsumeSettler(each, backend.stats, options, letters))
        self._open_consumer = open_consumer or backend.open_consumer
        self._announcer = announcer

    async def open(self) -> None:
        """Make sure of the consumer, and of the place for what gives up."""
        await self._open(self.consumer)
        if self._letters is not None:
            try:
                await self._letters.prepare(self.source.stream)
            except BaseException:
                self._announcer.end()
                await self.source.close()
                raise

    async def reopen(self, error: ConsumerNotFound | None) -> None:
        """Open again, made anew where the group had got to; retried while the server cannot do it right now.

        Raises:
            ConsumerGone: it was deleted and may only be bound to.
        """
        lost = self.source
        if error is not None:
            self._announcer.tell(ConsumerEventKind.CONSUMER_DELETED, str(error))
        if error is not None and self.consumer.ensure == "bind":
            raise ConsumerGone(
                f"consumer {lost.consumer!r} of {lost.stream!r} was deleted; ensure='bind' does not make it again",
                stream=lost.stream,
            ) from error
        resume = lost.resume_sequence
        await lost.close()
        again = replace(self.consumer, stream=lost.stream, start=resume or self.consumer.start)
        if error is not None:
            log.warning(
                "consumer %s of %s was deleted; made again from sequence %s", lost.consumer, lost.stream, resume
            )
        if await self._open_in_time(again) and error is not None:
            self._announcer.tell(ConsumerEventKind.CONSUMER_RECREATED, f"from sequence {resume}" if resume else "")

    async def pause(self) -> None:
        """Ask for nothing meanwhile; what was not fetched is for the others.

        One of our own would be removed with its source, and with it its position and, where the stream keeps only what
        somebody is interested in, what is stored meanwhile. It stays, and has no others.
        """
        await (self.source.rest() if self._stays else self.source.close())

    async def resume(self) -> None:
        """Go on after ``pause``."""
        if not self._stays:
            await self.reopen(None)

    async def until_extending(self) -> None:
        """Wait until it is time to extend what is in hand."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._extend_every):
                await self._sooner.wait()
        self._sooner.clear()
        self._extended_at = asyncio.get_running_loop().time()

    def came_again(self, taken_at: float) -> None:
        """What was taken then, and is in hand, was handed out again: its ack wait is over by now.

        A consumer that is only bound to does not tell how long it is. Shorter than we were told, it is extended sooner.
        """
        after = asyncio.get_running_loop().time() - max(taken_at, self._extended_at)
        every = max(after / 2, _SHORTEST)
        if self.consumer.ensure != "bind" or after >= self.consumer.ack_wait or every >= self._extend_every:
            return
        log.warning(
            "%s handed a message out again after %.3g s: its ack wait is shorter than ack_wait=%g says; extending every"
            " %.3g s",
            self.source.consumer,
            after,
            self.consumer.ack_wait,
            every,
        )
        self._extend_every = every
        self._sooner.set()

    def stop(self) -> None:
        """No more is asked for; whoever waits stops waiting."""
        self.stopping = True
        if self.recess is not None:
            self.recess.end()
        self.waits.interrupt()

    async def give_back(self, deliveries: Sequence[Delivery]) -> None:
        """Hand them to another worker at once; first our own requests go, or they would be handed to us again."""
        await self.source.close()
        for delivery in deliveries:
            with suppress(BrokerError):
                await self.source.nak(delivery, delay=0.0)

    async def leave(self, message: StreamMessage) -> None:
        """The same for a message in hand."""
        await self.source.close()
        await self.settler.give_back(message)

    async def _open_in_time(self, consumer: ConsumerOptions) -> bool:
        """Whether it is open: not when the consumption ends meanwhile."""
        pause = REOPEN_PAUSE[0]
        while not self.stopping:
            try:
                await self._open(consumer)
            except (ConnectionLost, RequestTimeout) as exc:
                log.warning("opening consumer %s again: %s", self.source.consumer, exc)
            except ApiError as exc:
                if not exc.transient:
                    raise
            else:
                return True
            await self.waits.wait(asyncio.sleep(pause * random.uniform(0.5, 1.0)))
            pause = min(pause * 2, REOPEN_PAUSE[1])
        return False

    async def _open(self, consumer: ConsumerOptions) -> None:
        source = await self._open_consumer(consumer)
        self.source = source
        source.watch(self._announcer.tell)
        self._announcer.begin(source.stream, source.consumer)
        self.settler = self._settler_for(source)
