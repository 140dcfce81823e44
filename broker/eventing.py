"""The verbs of ``StreamBroker`` that know what an event is worth: ``send``, ``on``, ``check_contracts``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack, cast, final

from broker.applying import check_async
from broker.contracts.qos import QoS
from broker.quality.decoding import Decoding
from broker.quality.receiving import EventInbox, check_core, check_worker, with_malformed
from broker.stream_consumer import StreamConsumer

if TYPE_CHECKING:
    from collections.abc import Callable
    from os import PathLike

    from broker.consuming import Consumption
    from broker.contracts.envelopes import Receipt
    from broker.quality.journaling import Journaling
    from broker.quality.receiving import EventOptions
    from broker.quality.sending import Sender
    from broker.quality.stats import ContractStats
    from broker.subscriptions import Subscription


class Eventing(StreamConsumer):
    """A part of ``StreamBroker``, which makes what these verbs work with."""

    _sender: Sender
    _journaling: Journaling

    @final
    async def send(self, event: object, *, timeout: float = 15.0) -> Receipt | None:
        """Send an event as its contract says.

        At QoS 0 as ``publish_nowait``: in microseconds, dropped and counted when the connection cannot take it; there
        is no receipt. At QoS 1 as ``enqueue``, under the event's key when it has one.

        At QoS 2 it goes into the journal first (see ``keep_journal``), a file on this machine's disk, and from there to
        its stream, also after this process was killed. The receipt is the stream's word; ``None`` says that there was
        none within ``timeout`` seconds, and that the journal sees to it.

        The first event of a type makes the broker look whether its promises hold on this server (see
        ``check_contracts``): at QoS 1 and 2 it waits for the answer, for up to 2 s, and at QoS 0 the sends after the
        answer are refused.

        Args:
            event: of a type with a ``@contract``.
            timeout: seconds, all attempts together, at QoS 1; at QoS 2 how long to wait for the stream's word.

        Raises:
            QoSViolation: what the contract promises would not hold here; nothing was sent.
            InvalidOption: its type has no contract.
            EncodeError: its values are not of the types it declares; nothing was sent.
            InvalidKey: the field that names it holds no key; nothing was sent.
            EnqueueUnknown: no word in time, and no journal; send the same event again, which is safe when it has a key.
            KeyConflict, JournalFull, DatabaseUnavailable: of ``broker.exactly_once``: the journal did not take it.
            And what ``publish_nowait`` (QoS 0) and ``enqueue`` raise.
        """
        self._lifetime.check_loop()
        return await self._sender.send(event, timeout)

    @final
    async def on(
        self,
        event_type: type,
        handler: Callable[..., Any],
        *,
        idempotent: bool = False,
        **consume_options: Unpack[EventOptions],
    ) -> Consumption | Subscription:
        """Handle the events of a type as its contract says: ``subscribe`` at QoS 0, ``consume`` at the others.

        The handler gets the event: ``handler(event)``, with ``batch_size=`` a list of events, with ``inbox=``
        ``handler(event, tx)``. One that also has a keyword-only parameter ``message`` gets the message (or the list of
        them) there, to see its attempt or to settle it by hand.

        What arrives and is not the event is dropped and counted at QoS 0, and a dead letter at the others.

        Args:
            event_type: a type with a ``@contract``.
            handler: as for ``subscribe`` and ``consume``.
            idempotent: at QoS 2, instead of ``inbox=``: you say that handling an event twice changes nothing.
            consume_options: at QoS 0 ``queue``, ``pending_limit`` and ``overflow`` of ``subscribe``; at the others
                those of ``consume``. ``ordered`` is on where the contract has an ``ordering_key``. ``ensure="bind"``
                asks the server nothing, so nothing is checked there.

        Raises:
            QoSViolation: what the contract promises would not hold; it names each reason and its fix. No consumer was
                made.
            InvalidOption: the type has no contract, or an option means nothing at its grade.
            And what ``subscribe`` and ``consume`` raise.
        """
        self._lifetime.check_open()
        line = self._sender.line(event_type)
        contract, stats, options = line.contract, line.stats, cast("dict[str, Any]", dict(consume_options))
        given = ("event",) if options.get("inbox") is None else ("event", "tx")
        if len(given) > 1:
            check_async(handler)
        decoding = Decoding(contract, stats, handler, given=given)
        if contract.qos is QoS.AT_MOST_ONCE:
            await check_core(contract, self._streams, options, idempotent=idempotent)
            handle = decoding.from_core(counts_gaps=options.get("queue") is None)
            return await self.subscribe(contract.subject, handle, **options)
        options["stream"] = await check_worker(contract, self._streams, options, idempotent=idempotent)
        options["on_error"] = with_malformed(options.get("on_error"))
        options.setdefault("ordered", contract.ordering_key is not None)
        batches = options.get("batch_size") is not None
        if options.get("inbox") is not None:
            options["inbox"] = EventInbox(options["inbox"], contract, decoding, stats)
            once = decoding.once_each if batches else decoding.once
            return await self.consume(contract.subject, once, **options)
        work = decoding.from_batches() if batches else decoding.from_stream()
        return await self.consume(contract.subject, work, **options)

    @final
    async def keep_journal(self, directory: str | PathLike[str] | None) -> None:
        """Say where events of QoS 2 are kept until their stream has them, before the first one is sent.

        By default, for a broker made by ``connect``: in the directory that ``GAMEBROKER_JOURNAL`` names, else in
        ``gamebroker`` under ``XDG_STATE_HOME`` or ``~/.local/state``, each server in a directory of its own there.

        Args:
            directory: for this server alone, on a local disk that outlives the process; ``None`` keeps no journal:
                ``send`` is then ``enqueue`` with a key, and an ``EnqueueUnknown`` yours to repeat.

        Raises:
            QoSViolation: the directory cannot be used, or the extra ``sql`` is not installed.
            InvalidOption: there is a journal already.
            DatabaseUnavailable, SchemaMissing: of ``broker.exactly_once``.
        """
        self._lifetime.check_open()
        await self._journaling.keep(directory)

    @final
    async def check_contracts(self, *event_types: type) -> None:
        """Look now whether what is sent of these types would be kept as declared: for the start of a program.

        ``send`` does so by itself with the first event of a type, ``on`` with every worker.

        Raises:
            QoSViolation: it would not; it names each reason and its fix.
            InvalidOption: a type has no contract.
            ConnectionLost, RequestTimeout, PermissionDenied, BrokerClosed, ApiError: it could not be found out.
        """
        self._lifetime.check_open()
        for line in [self._sender.line(each) for each in event_types]:
            await line.look.again()
            if line.contract.qos is QoS.EXACTLY_ONCE:
                await self._journaling.journal(line.contract)

    @final
    def contract_stats(self, event_type: type) -> ContractStats:
        """What this broker has counted of a type: loss, retries, repeats.

        Raises:
            InvalidOption: it has no contract.
        """
        return self._sender.line(event_type).stats
