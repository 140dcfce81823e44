"""The half of ``StreamBroker`` that takes stored messages: handed to a handler, on demand, or read through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack, final

from broker.applying import consume_once
from broker.broker import Broker
from broker.consumer_builder import (
    Subjects,
    Working,
    check_group_name,
    how_to_push,
    how_to_work,
    in_order,
    patterns,
    push_consumer,
    sending_from,
    worker,
)
from broker.consuming import Consumption
from broker.contracts.checks import check_kind
from broker.contracts.claims import claim_of
from broker.contracts.errors import NoStream
from broker.contracts.options import ConsumeOptions, ConsumerOptions, Ensure, Replay, Start, in_range
from broker.dead_letters import DeadLetterWriter
from broker.handling import check_handler
from broker.lanes.ordered import OrderedConsumption
from broker.ordered import in_sequence
from broker.pulling import Puller
from broker.reading import Reader, Until
from broker.rescheduling.later import Later, check_possible

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from broker.applying import Handler, Inbox
    from broker.contracts.backend import StreamBackend
    from broker.contracts.failure import OnErrors
    from broker.dead_letters import DeadLetters
    from broker.enqueueing import Enqueuer
    from broker.messages import StreamMessage


class StreamConsumer(Broker):
    """What ``StreamBroker`` does with what is stored."""

    _streams: StreamBackend
    _enqueuer: Enqueuer
    dead_letters: DeadLetters

    @final
    async def consume(
        self,
        subject: Subjects,
        handler: Handler,
        *,
        queue: str | None = None,
        durable: str | None = None,
        max_ack_pending: int = 256,
        ack_wait: float = 30.0,
        concurrency: int = 16,
        max_deliver: int = 5,
        backoff: Sequence[float] = (1.0, 5.0, 30.0, 120.0),
        dead_letter: bool = True,
        auto_extend: bool = True,
        ordered: bool = False,
        inbox: Inbox | None = None,
        stream: str | None = None,
        ensure: Ensure = "verify",
        metadata: Mapping[str, str] | None = None,
        headers_only: bool = False,
        on_error: OnErrors | None = None,
        pause_for: float = 10.0,
        batch_size: int | None = None,
        batch_timeout: float = 1.0,
        rate: float | None = None,
        byte_rate: float | None = None,
        max_bytes: int | None = None,
        reschedule_after: float | None = None,
        priority_group: str | None = None,
        min_pending: int | None = None,
        min_ack_pending: int | None = None,
        priority: int | None = None,
    ) -> Consumption:
        """Work through stored messages: a handler that returns acks, one that raises gives back with backoff.

        Args:
            subject: a subject or pattern that one stream captures, or several that do not overlap.
            handler: ``async def`` (``concurrency`` at once) or a plain function (inline; it must not block).
            queue: the workers who share the work.
            durable: the stored position. Either alone is enough; with neither, an unnamed position is forgotten
                after the worker is gone.
            max_ack_pending: unsettled messages in the whole group at most.
            ack_wait: seconds until an unsettled message is handed out again; extended while a handler runs. With
                ``ensure="bind"`` the consumer's own: extended too late, a message runs twice.
            concurrency: ``async def`` handlers at once in this process.
            max_deliver: attempts before a message is dead-lettered.
            backoff: seconds before each further attempt; the last one repeats.
            dead_letter: keep what gave up in ``dead_letters``.
            auto_extend: extend ``ack_wait`` while a message is in hand.
            ordered: handle the messages of one ``ordering_key`` in their order, keys side by side, over any number of
                workers of the queue; needs a stream with ``lanes``. One message of a lane is unsettled at a time, and
                ``max_ack_pending`` has no meaning; batches, rates, ``max_bytes``, ``"pause"``, ``headers_only`` and
                priority groups are refused. One that fails holds up its own key only.
            inbox: ``broker.exactly_once.Inbox``: the effect happens once in its database. The handler, ``async def``,
                gets ``(msg, tx)`` (or the list and ``tx``); what it does on ``tx`` is committed with the key.
            stream: its name; looked up by subject when ``None`` (needed with ``ensure="bind"`` where the role may
                not look up).
            ensure: ``"verify"`` creates the consumer or raises on a difference, ``"update"`` brings it in line,
                ``"bind"`` touches no management API.
            metadata: free names and values kept with the consumer.
            headers_only: deliver no bodies; an empty body is what handlers see.
            on_error: what becomes of a message by its handler's exception: ``{ValueError: "dead_letter", Busy: "retry",
                Gone: "drop", DatabaseDown: "pause"}``; the most specific class wins, the others are retried.
            pause_for: seconds of a ``"pause"``; the message stays in hand and the same attempt is made again.
            batch_size: the handler gets a list of up to so many messages; returning acks those it did not settle,
                raising settles them as failed. ``concurrency`` counts batches then.
            batch_timeout: seconds after its first message within which a batch that is not full is handed over.
            rate: messages per second at most in this process; decides how much is asked for.
            byte_rate: bytes of bodies per second at most, likewise.
            max_bytes: bytes on their way to this process at most; a single larger message comes alone.
            reschedule_after: seconds. A message that is to wait for so long or longer, by ``backoff`` or
                ``nak(delay=)``, waits in a schedule in the stream ``GAMEBROKER_LATER``, takes no place in
                ``max_ack_pending`` meanwhile, and comes back to this group alone, with its subject, sequence and
                attempts. Needs a name; refused with ``ordered``, ``headers_only`` and priority groups.
            priority_group: the group of a consumer with a priority policy in which this worker asks.
            min_pending: there: be served only while so many messages wait.
            min_ack_pending: there: be served only while so many are unsettled.
            priority: there: 0 is served first, 9 last.

        Raises:
            NoStream: no stream captures the subject.
            ConfigDrift: the consumer exists with other settings; it names each field.
            FeatureDisabled: ``reschedule_after``, and ``GAMEBROKER_LATER`` was declared without schedules.
            ConsumerNotFound: bind only, and it does not exist.
            InvalidSubject, InvalidOption: at once; also ``ordered`` without a name, with one over 240 bytes, or on a
                stream without lanes.
            DatabaseUnavailable, SchemaMissing, RetentionTooShort: of ``broker.exactly_once``, with an inbox.
            ConnectionLost, BrokerClosed, PermissionDenied, ApiError.
        """
        self._lifetime.check_open()
        if inbox is None:
            check_handler(handler)
        check_kind("ordered", ordered, bool, "True or False", shown=True)
        options = how_to_work(
            max_ack_pending,
            concurrency=concurrency,
            max_deliver=max_deliver,
            backoff=backoff,
            dead_letter=dead_letter,
            auto_extend=auto_extend,
            on_error=on_error,
            pause_for=pause_for,
            batch_size=batch_size,
            batch_timeout=batch_timeout,
            rate=rate,
            byte_rate=byte_rate,
            max_bytes=max_bytes,
            reschedule_after=reschedule_after,
        )
        claim = claim_of(priority_group, min_pending=min_pending, min_ack_pending=min_ack_pending, priority=priority)
        consumer = worker(
            subject,
            queue=queue,
            durable=durable,
            stream=stream,
            max_ack_pending=max_ack_pending,
            ack_wait=ack_wait,
            ensure=ensure,
            metadata=metadata,
            headers_only=headers_only,
            claim=claim,
        )
        check_possible(consumer, options)
        work = self._in_lanes if ordered else self._work
        if inbox is None:
            return await work(handler, consumer, options)
        return await consume_once(inbox, handler, consumer, options, backend=self._streams, work=work)

    @final
    async def push_subscribe(
        self,
        subject: Subjects,
        handler: Callable[[StreamMessage], Any] | Callable[[list[StreamMessage]], Any],
        *,
        queue: str | None = None,
        durable: str | None = None,
        flow_control: bool = True,
        idle_heartbeat: float = 5.0,
        ordered: bool = False,
        start: Start = "first",
        max_ack_pending: int = 256,
        ack_wait: float = 30.0,
        stream: str | None = None,
        ensure: Ensure = "verify",
        metadata: Mapping[str, str] | None = None,
        headers_only: bool = False,
        **working: Unpack[Working],
    ) -> Consumption:
        """As ``consume``, with the server sending unasked: as much as ``max_ack_pending`` lets it, wherever it goes.

        ``consume`` asks for what it has room for and is the better choice where workers share the work; this one is
        for a consumer that other clients expect to push.

        Args:
            subject: see ``consume``.
            handler: see ``consume``.
            queue: the workers who share it; each message goes to one of them, busy or not.
            durable: the stored position; without ``queue`` one worker at a time may listen to it.
            flow_control: the server goes on when we say how far we are; a group has none. ``ordered`` needs it.
            idle_heartbeat: seconds between the server's signs of life; a group gets none and is looked after instead.
            ordered: one at a time, in order and without gaps, and nothing is settled: a gap is mended by starting again
                after the last message, a handler that fails is reported and the next message follows. For unnamed
                ones; of ``working`` only ``rate``, ``byte_rate``, ``batch_size`` and ``batch_timeout`` mean something.
            start: where a new consumer begins.
            max_ack_pending: unsettled messages at most; so many are sent ahead.
            ack_wait: see ``consume``.
            stream: see ``consume``.
            ensure: ``"verify"`` or ``"update"``.
            metadata: see ``consume``.
            headers_only: see ``consume``.
            working: as in ``consume``: ``concurrency``, ``max_deliver``, ``backoff``, ``dead_letter``, ``auto_extend``,
                ``on_error``, ``pause_for``, ``batch_size``, ``batch_timeout``, both rates, ``reschedule_after``.

        Raises:
            What ``consume`` raises, and InvalidOption: somebody else listens to the durable.
        """
        self._lifetime.check_open()
        check_handler(handler)
        check_kind("ordered", ordered, bool, "True or False", shown=True)
        options = in_order(queue or durable, **working) if ordered else how_to_push(max_ack_pending, **working)
        consumer = push_consumer(
            subject,
            self._streams.new_inbox(),
            acks=not ordered,
            queue=queue,
            durable=durable,
            flow_control=flow_control,
            idle_heartbeat=idle_heartbeat,
            start=start,
            max_ack_pending=max_ack_pending,
            ack_wait=ack_wait,
            stream=stream,
            ensure=ensure,
            metadata=metadata,
            headers_only=headers_only,
        )
        check_possible(consumer, options)
        found = stream or await self._streams.find_stream(consumer.filters[0])
        if found is None:
            first = consumer.filters[0]
            raise NoStream(f"no stream captures {first!r}; declare one whose subjects match it", subject=first)
        return await self._work(handler, sending_from(found, consumer), options)

    async def _work(
        self, handler: Callable[..., Any], consumer: ConsumerOptions, options: ConsumeOptions
    ) -> Consumption:
        """A running consumption; the one engine behind every verb that takes a handler."""
        letters = self._letters(consumer, options)
        open_consumer = None if consumer.acks else in_sequence(self._streams, self._codec)
        settler_for = None
        if options.reschedule_after is not None:
            later = Later(self._streams, self._enqueuer)
            open_consumer, settler_for = later.open, later.settler_for(options, letters, options.reschedule_after)
        consumption = Consumption(
            handler,
            consumer=consumer,
            options=options,
            backend=self._streams,
            codec=self._codec,
            letters=letters,
            forget=self._roster.drainables.discard,
            open_consumer=open_consumer,
            settler_for=settler_for,
        )
        await consumption.start()
        await self._lifetime.admit(consumption)
        return consumption

    async def _in_lanes(
        self, handler: Callable[..., Any], consumer: ConsumerOptions, options: ConsumeOptions
    ) -> Consumption:
        """The same, with every ordering key in its order."""
        check_group_name(consumer.durable)
        consumption = OrderedConsumption(
            handler,
            consumer=consumer,
            options=options,
            backend=self._streams,
            codec=self._codec,
            enqueuer=self._enqueuer,
            dead_letters=self.dead_letters,
            letters=self._letters(consumer, options),
            forget=self._roster.drainables.discard,
        )
        await consumption.start()
        await self._lifetime.admit(consumption)
        return consumption

    def _letters(self, consumer: ConsumerOptions, options: ConsumeOptions) -> DeadLetterWriter | None:
        if not options.dead_letter:
            return None
        return DeadLetterWriter(self._streams, self._enqueuer, create=consumer.ensure != "bind")

    @final
    def pull(
        self,
        subject: Subjects,
        *,
        queue: str | None = None,
        durable: str | None = None,
        batch: int = 100,
        max_ack_pending: int = 1000,
        ack_wait: float = 30.0,
        stream: str | None = None,
        ensure: Ensure = "verify",
        metadata: Mapping[str, str] | None = None,
        headers_only: bool = False,
        max_bytes: int | None = None,
        priority_group: str | None = None,
        min_pending: int | None = None,
        min_ack_pending: int | None = None,
        priority: int | None = None,
    ) -> Puller:
        """Take stored messages on demand, inside ``async with``; you settle every one.

        Args:
            subject: see ``consume``.
            queue: see ``consume``.
            durable: see ``consume``.
            batch: messages ``async for`` asks for at a time.
            max_ack_pending: see ``consume``, whose default differs: a durable of both needs it; no fetch brings more.
            ack_wait: see ``consume``; nothing is extended for you.
            stream: see ``consume``.
            ensure: see ``consume``.
            metadata: see ``consume``.
            headers_only: see ``consume``.
            max_bytes: see ``consume``.
            priority_group: see ``consume``, as ``min_pending``, ``min_ack_pending`` and ``priority``.
            min_pending: see ``priority_group``.
            min_ack_pending: see ``priority_group``.
            priority: see ``priority_group``.

        Raises:
            InvalidSubject, InvalidOption: at once; the rest of what ``consume`` raises on entering.
        """
        in_range("batch", batch, 1, whole=True)
        if max_bytes is not None:
            in_range("max_bytes", max_bytes, 1, whole=True)
        claim = claim_of(priority_group, min_pending=min_pending, min_ack_pending=min_ack_pending, priority=priority)
        consumer = worker(
            subject,
            queue=queue,
            durable=durable,
            stream=stream,
            max_ack_pending=max_ack_pending,
            ack_wait=ack_wait,
            ensure=ensure,
            metadata=metadata,
            headers_only=headers_only,
            claim=claim,
        )
        return Puller(
            consumer,
            batch=batch,
            max_bytes=max_bytes,
            backend=self._streams,
            codec=self._codec,
            admit=self._lifetime.admit,
            forget=self._roster.drainables.discard,
        )

    @final
    def read(
        self,
        subject: Subjects,
        *,
        start: Start = "first",
        until: Until = None,
        stream: str | None = None,
        speed: Replay = "instant",
    ) -> Reader:
        """Read stored messages in order and without gaps, inside ``async with``; nothing is settled.

        Args:
            subject: see ``consume``.
            start: ``"first"``, ``"last"``, ``"new"``, ``"last_per_subject"``, a sequence, or a time.
            until: the last sequence to read, the time to stop at, ``"end"`` for what is stored now, or ``None`` to
                follow for ever.
            stream: its name; looked up by subject when ``None``.
            speed: ``"instant"``, or ``"original"``: with the pauses with which the messages were stored.

        Raises:
            InvalidSubject, InvalidOption: at once.
            NoStream: on entering, when no stream captures the subject.
            Unsupported: on entering, when the stream is a work queue: what its workers take cannot be read beside them.
        """
        options = ConsumerOptions(filters=patterns(subject), stream=stream, acks=False, start=start, replay=speed)
        return Reader(options, until, backend=self._streams, codec=self._codec)
