"""Where a group's messages wait for an attempt that is far away, and the consumer that brings them back."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from broker.contracts.errors import BrokerError, ConfigDrift, FeatureDisabled, InvalidOption, PayloadTooLarge
from broker.contracts.options import ConsumerOptions
from broker.rescheduling.copies import (
    LATER_STREAM,
    consumer_name,
    due_pattern,
    later_stream_options,
    waiting_record,
    waiting_subject,
)
from broker.rescheduling.settling import ReschedulingSettler
from broker.rescheduling.source import ReturningSource
from broker.settling import where

if TYPE_CHECKING:
    from broker.contracts.backend import DeliverySource, StreamBackend
    from broker.contracts.envelopes import Delivery
    from broker.contracts.options import ConsumeOptions
    from broker.dead_letters import DeadLetterWriter
    from broker.enqueueing import Enqueuer
    from broker.supply import SettlerFor

log = logging.getLogger("broker.rescheduling")

_STORE_TIMEOUT: Final = 2.0
_REST: Final = 5.0
"""Seconds in which nothing is put into a schedule after that failed: not each failing message is to wait for it."""
_FIXED: Final = frozenset({"subjects", "retention"})
"""What an administrator's own stream cannot have otherwise: elsewhere the server drops what waits."""


class Later:
    """The far attempts of one group."""

    def __init__(self, backend: StreamBackend, enqueuer: Enqueuer) -> None:
        self._backend = backend
        self._enqueuer = enqueuer
        self._clock = asyncio.get_running_loop().time
        self._rest_until = 0.0

    def settler_for(self, options: ConsumeOptions, letters: DeadLetterWriter | None, threshold: float) -> SettlerFor:
        """Who settles what came from a source."""
        stats = self._backend.stats
        return lambda source: ReschedulingSettler(source, stats, options, letters, later=self, threshold=threshold)

    async def open(self, consumer: ConsumerOptions) -> DeliverySource:
        """A source on the consumer and on what comes back to its group.

        Raises:
            FeatureDisabled: the stream that is to keep what waits was declared without schedules.
            ConfigDrift: it was declared so that it cannot, or the consumer that brings it back has other settings.
            ConsumerNotFound: bind only, and one of the two does not exist.
        """
        first = await self._backend.open_consumer(consumer)
        try:
            if consumer.ensure != "bind":
                await self._prepare(first.stream)
            back = await self._backend.open_consumer(_bringing_back(first.stream, first.consumer, consumer))
        except BaseException:
            await first.close()
            raise
        return ReturningSource(first, back, ack_wait=consumer.ack_wait)

    async def keep(self, delivery: Delivery, wait: float) -> bool:
        """Store it for ``wait`` seconds later; whether that is certain."""
        if self._clock() < self._rest_until:
            return False
        record = waiting_record(delivery, wait, self._enqueuer.fresh_id(waiting_subject(delivery)))
        try:
            await self._enqueuer.store(record, deadline=self._clock() + _STORE_TIMEOUT)
        except BrokerError as exc:
            log.warning("%s keeps its place while it waits, no schedule took it: %s", where(delivery), exc)
            if not isinstance(exc, PayloadTooLarge):
                self._rest_until = self._clock() + _REST
            return False
        return True

    async def _prepare(self, stream: str) -> None:
        """Make sure of the stream that keeps what waits, with as many replicas as the messages have."""
        replicas = (await self._backend.stream_info(stream)).config.replicas
        try:
            await self._backend.create_stream(later_stream_options(replicas))
        except ConfigDrift as drift:
            if "schedules" in drift.differences:
                told = f"stream {LATER_STREAM!r} keeps no schedules, which reschedule_after= needs: declare it with"
                raise FeatureDisabled(f"{told} schedules=True", option="schedules", stream=LATER_STREAM) from drift
            if _FIXED & set(drift.differences):
                raise


def check_possible(consumer: ConsumerOptions, options: ConsumeOptions) -> None:
    """Refuse ``reschedule_after`` with a consumer that nothing can come back to as it went.

    Raises:
        InvalidOption.
    """
    if options.reschedule_after is None:
        return
    if consumer.durable is None:
        told = "reschedule_after= needs queue= or durable=: the group that the next attempt comes back to"
        raise InvalidOption(told, option="reschedule_after")
    contradictions = {"headers_only": consumer.headers_only, "priority_group": consumer.claim is not None}
    for option, said in contradictions.items():
        if said:
            told = f"{option} contradicts reschedule_after=: what waited comes back whole, to any worker of the group"
            raise InvalidOption(told, option="reschedule_after")


def _bringing_back(stream: str, name: str, consumer: ConsumerOptions) -> ConsumerOptions:
    return ConsumerOptions(
        durable=consumer_name(stream, name),
        queue=consumer.queue,
        filters=(due_pattern(stream, name),),
        stream=LATER_STREAM,
        max_ack_pending=consumer.max_ack_pending,
        ack_wait=consumer.ack_wait,
        ensure=consumer.ensure,
    )
