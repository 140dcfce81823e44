"""The verbs of ``StreamBroker`` that store more than one message at once: together, later, or as a sum."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

from broker.contracts.envelopes import Entry
from broker.contracts.errors import InvalidOption
from broker.scheduling import due_when

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from broker.contracts.envelopes import Receipt
    from broker.contracts.headers import HeadersLike
    from broker.contracts.schedules import Scheduled
    from broker.counting import Counting
    from broker.enqueueing import Enqueuer
    from broker.lifetime import Lifetime
    from broker.scheduling import Scheduler


class Publishing:
    """A part of ``StreamBroker``, which makes what these verbs work with."""

    _lifetime: Lifetime
    _enqueuer: Enqueuer
    _scheduler: Scheduler
    _counting: Counting

    @final
    async def enqueue_atomic(self, entries: Sequence[Entry], *, timeout: float = 15.0) -> list[Receipt]:
        """Store all of them or none, next to each other in one stream; receipts in the order given.

        A wallet's debit and credit, each expecting its subject's last sequence, is what it is for. Repeated with the
        same keys it is stored once: the receipts then say ``duplicate``.

        Args:
            entries: 1 to 1000, for subjects of one stream that is declared with ``atomic`` (the default). Only the
                first may expect ``last_sequence``, none ``last_msg_id``.
            timeout: seconds, all attempts together.

        Raises:
            BatchRejected: nothing was stored; ``reason`` and ``index`` say why. ``"duplicate"`` when some keys were
                stored before and others were not.
            SequenceConflict: an expectation did not hold; nothing was stored.
            FeatureDisabled: the stream has lanes; nothing was stored.
            NoStream, StreamFull, PayloadTooLarge, PermissionDenied, ApiError: nothing was stored.
            EnqueueUnknown: no word in time; enqueue the same again with its ``idempotency_keys``.
            InvalidSubject, InvalidKey, InvalidHeader, InvalidOption, EncodeError: at once; nothing was sent.
            BrokerClosed, Unauthorized.
        """
        self._lifetime.check_loop()
        return await self._enqueuer.enqueue_atomic(entries, timeout)

    @final
    async def schedule(
        self,
        subject: str,
        body: Any,
        *,
        at: datetime | None = None,
        delay: float | None = None,
        every: float | None = None,
        cron: str | None = None,
        zone: str | None = None,
        key: str,
        idempotency_key: str | None = None,
        headers: HeadersLike | None = None,
        stream: str | None = None,
        timeout: float = 15.0,
    ) -> Scheduled:
        """Store a message later; the server keeps the time, and what waits outlives this process.

        The stream is declared with ``schedules=True``. Exactly one of ``at``, ``delay``, ``every`` and ``cron``. It is
        stored within about a third of a second of its time, and at once when that is past.

        Args:
            subject: what it is stored under when it is due.
            body: see ``enqueue``.
            at: when; with a time zone.
            delay: seconds from now.
            every: seconds between two, at least 1, whole milliseconds; the first one after so many.
            cron: six fields, seconds first: ``"0 30 4 * * *"`` is half past four every night.
            zone: the time zone of ``cron``; UTC by default.
            key: the schedule's own, within the stream: the same key replaces what waits, and ``cancel`` takes it.
            idempotency_key: what consumers see as ``msg.idempotency_key``. Not with ``every`` or ``cron``, where
                every message is another one.
            headers: application headers.
            stream: its name; looked up by subject when ``None``.
            timeout: seconds, all attempts together.

        Raises:
            FeatureDisabled: the stream keeps no schedules.
            NoStream, StreamFull, PayloadTooLarge, PermissionDenied, ApiError: not scheduled.
            EnqueueUnknown: no word in time; schedule it again with the same ``key``, which replaces it.
            InvalidSubject, InvalidKey, InvalidHeader, InvalidOption, EncodeError: at once; nothing was sent.
            ConnectionLost, BrokerClosed, Unauthorized.
        """
        self._lifetime.check_loop()
        due = due_when(subject, at=at, delay=delay, every=every, cron=cron, zone=zone)
        if idempotency_key is not None and (every is not None or cron is not None):
            raise InvalidOption(
                "idempotency_key= is of one message; every= and cron= make many", option="idempotency_key"
            )
        entry = Entry(subject, body, idempotency_key, headers=headers)
        return await self._scheduler.schedule(entry, due, key, stream=stream, timeout=timeout)

    @final
    async def cancel(self, key: str, *, stream: str | None = None) -> bool:
        """Take back what waits under the key; whether something did.

        Args:
            key: of ``schedule``.
            stream: where; every stream that keeps schedules when ``None``.

        Raises:
            StreamNotFound, InvalidKey, RequestTimeout (ask again), ConnectionLost, BrokerClosed, PermissionDenied,
            ApiError.
        """
        self._lifetime.check_loop()
        return await self._scheduler.cancel(key, stream=stream)

    @final
    async def increment(
        self,
        subject: str,
        by: int = 1,
        *,
        idempotency_key: str | None = None,
        headers: HeadersLike | None = None,
        timeout: float = 15.0,
    ) -> int | None:
        """Add to the counter of the subject; its new value.

        The stream is declared with ``counters=True``. A counter starts at 0, takes any whole number and may go below 0:
        for kills and totals, not for wallets (a sum that must not go below something: ``enqueue_atomic``).

        Args:
            subject: one for each counter.
            by: what is added.
            idempotency_key: a repeat within the stream's duplicate window adds nothing. Generated when ``None``.
            headers: application headers of the stored increment.
            timeout: seconds, all attempts together.

        Returns:
            The value right after this addition, also when this is a repeat of it. ``None`` when it is a repeat and the
            stream keeps that addition no more, or it cannot be read: it counted once, and ``counter`` tells the
            value now.

        Raises:
            FeatureDisabled: the stream keeps no counters.
            NoStream, StreamFull, PermissionDenied, ApiError: nothing was added.
            EnqueueUnknown: no word in time; again with its ``idempotency_key`` adds it once.
            InvalidSubject, InvalidKey, InvalidHeader, InvalidOption: at once; nothing was sent.
            BrokerClosed, Unauthorized.
        """
        self._lifetime.check_loop()
        entry = Entry(subject, b"", idempotency_key, headers=headers)
        return await self._counting.increment(entry, by, timeout=timeout)

    @final
    async def counter(self, subject: str, *, stream: str | None = None) -> int:
        """The value of the counter of the subject; 0 when nothing was ever added.

        Args:
            subject: of the counter.
            stream: its name; looked up by subject when ``None``.

        Raises:
            FeatureDisabled: what is stored there is no counter.
            NoStream, StreamNotFound, InvalidSubject, RequestTimeout, ConnectionLost, BrokerClosed, PermissionDenied,
            ApiError.
        """
        self._lifetime.check_loop()
        return await self._counting.value(subject, stream=stream)
