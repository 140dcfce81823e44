"""The spans and durations of one backend: what each operation looks like in a trace."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Self

from opentelemetry import context as current
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanKind, Status, StatusCode

from broker.contracts.envelopes import Delivery, Envelope
from broker.contracts.headers import MESSAGE_ID
from broker.telemetry import naming
from broker.telemetry.propagation import extract, inject, remote_span

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextvars import Token
    from types import TracebackType

    from opentelemetry.metrics import Histogram
    from opentelemetry.trace import Span, SpanContext, Tracer
    from opentelemetry.util.types import AttributeValue

    from broker.contracts.envelopes import Record
    from broker.contracts.headers import Headers
    from broker.telemetry.metrics import Instruments

_CACHED: Final = 4096
_UNANSWERED: Final = 1024
"""Requests remembered until their reply is sent; what nobody answers is pushed out by the next."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One kind of span on one destination, ready to be started.

    Attributes:
        span: its name.
        attributes: what samplers may decide on.
        labels: what metrics are told apart by, of which there are few.
    """

    span: str
    attributes: Mapping[str, str]
    labels: Mapping[str, str]


class Probe:
    """Starts the spans of one backend."""

    def __init__(self, tracer: Tracer, instruments: Instruments, system: str, name_of: Callable[[str], str]) -> None:
        self.instruments = instruments
        self.system = system
        self._tracer = tracer
        self._name_of = name_of
        self._operation = lru_cache(_CACHED)(self._describe)
        self._replies: OrderedDict[str, Context] = OrderedDict()

    def publish(self, subject: str, headers: Headers | None) -> Sending:
        """A core message on its way out: not timed, for it only enters a buffer, and as cheap as can be unsampled.

        The reply to a request belongs to the handler that made it, which may be over by now.
        """
        return self._send("publish", subject, headers, self._replies.pop(subject, None), frame=True)

    def ask(self, subject: str, headers: Headers | None) -> Sending:
        """A request on its way out."""
        return self._send("request", subject, headers)

    def enqueue(self, record: Record) -> Sending:
        """A message on its way into a stream."""
        send = self._send("enqueue", record.subject, record.headers)
        send.span.set_attribute(naming.MESSAGE_ID, record.message_id)
        return send

    def _send(
        self, name: str, subject: str, headers: Headers | None, made_in: Context | None = None, *, frame: bool = False
    ) -> Sending:
        """A message on its way out.

        A context its headers hold already stays: a message passed on, replayed or dead-lettered belongs to the trace
        of the one who made it.
        """
        operation = self._operation(name, "send", subject)
        given = remote_span(headers)
        if given.is_valid:
            made_in = extract(headers)
        parent = _surrounding(made_in) if made_in is not None else None
        span = self._start(operation, SpanKind.PRODUCER, context=parent, links=_links(given))
        sent = headers if given.is_valid else inject(headers, span, unsampled=not frame)
        timer = None if frame else self.instruments.operation
        return Sending(span, operation, timer, sent, injected=sent is not headers)

    def process(self, message: Envelope | Delivery) -> Processing:
        """A handler at work on one message: the child of what sent it, with a link to what surrounds it."""
        group = message.consumer if isinstance(message, Delivery) else None
        operation = self._operation("process", "process", message.subject, group)
        sender = extract(message.headers)
        surrounding = trace.get_current_span().get_span_context()
        span = self._start(operation, SpanKind.CONSUMER, context=sender, links=_links(surrounding))
        if isinstance(message, Delivery) and span.is_recording():
            span.set_attributes(_of_delivery(message))
        inside = trace.set_span_in_context(span, sender)
        if isinstance(message, Envelope) and message.reply_to is not None:
            self._remember(message.reply_to, inside)
        return Processing(span, operation, self.instruments.process, inside)

    def receive(self, deliveries: Sequence[Delivery], stream: str, consumer: str, *, since_ns: int) -> None:
        """A fetch that brought something; a span of its own, linked to what sent the messages."""
        operation = self._operation("receive", "receive", stream, consumer, of_stream=True)
        links = _links(*(remote_span(delivery.headers) for delivery in deliveries))
        span = self._start(operation, SpanKind.CLIENT, context=_surrounding(), links=links, start_time=since_ns)
        span.set_attribute(naming.BATCH, len(deliveries))
        span.end()

    def settle(self, verb: str, deliveries: Sequence[Delivery], stream: str, consumer: str) -> Working:
        """Saying what became of messages: under the handler that says so, or else under what sent the message."""
        single = deliveries[0] if len(deliveries) == 1 else None
        if single is not None:
            operation = self._operation(verb, "settle", single.subject, consumer)
            span = self._start(operation, SpanKind.CLIENT, context=_surrounding(extract(single.headers)))
            if span.is_recording():
                span.set_attributes(_of_delivery(single))
        else:
            operation = self._operation(verb, "settle", stream, consumer, of_stream=True)
            links = _links(*(remote_span(delivery.headers) for delivery in deliveries))
            span = self._start(operation, SpanKind.CLIENT, context=_surrounding(), links=links)
            span.set_attribute(naming.BATCH, len(deliveries))
        return Working(span, operation)

    def _remember(self, reply_to: str, made_in: Context) -> None:
        self._replies[reply_to] = made_in
        if len(self._replies) > _UNANSWERED:
            self._replies.popitem(last=False)

    def _describe(
        self, name: str, kind: str, destination: str, group: str | None = None, *, of_stream: bool = False
    ) -> Operation:
        # Streams are few and named by their operator: no ids in there.
        template = destination if of_stream else self._name_of(destination)
        labels = {naming.SYSTEM: self.system, naming.OPERATION: name, naming.OPERATION_TYPE: kind}
        if group is not None:
            labels[naming.GROUP] = group
        attributes = {**labels, naming.DESTINATION: destination}
        labels[naming.TEMPLATE] = template
        if template != destination:
            attributes[naming.TEMPLATE] = template
        return Operation(f"{name} {template}", attributes, labels)

    def _start(
        self,
        operation: Operation,
        kind: SpanKind,
        *,
        context: Context | None = None,
        links: Sequence[Link] = (),
        start_time: int | None = None,
    ) -> Span:
        return self._tracer.start_span(
            operation.span,
            context=context,
            kind=kind,
            attributes=operation.attributes,
            links=links,
            start_time=start_time,
            record_exception=False,
            set_status_on_exception=False,
        )


def _links(*spans: SpanContext) -> list[Link]:
    return [Link(span) for span in spans if span.is_valid]


def _surrounding(otherwise: Context | None = None) -> Context:
    """The current context when a span is at work in it.

    A consume loop inherits the context it was started in for life; what that span did is long over.
    """
    if trace.get_current_span().is_recording():
        return current.get_current()
    return otherwise if otherwise is not None else Context()


def _of_delivery(delivery: Delivery) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue] = {
        naming.STREAM: delivery.stream,
        naming.SEQUENCE: delivery.sequence,
        naming.ATTEMPT: delivery.attempt,
    }
    if delivery.headers is not None and (wire_id := delivery.headers.get(MESSAGE_ID)):
        attributes[naming.MESSAGE_ID] = wire_id
    return attributes


class Working:
    """A span at work. As a context manager it ends with the block and passes on what is raised."""

    __slots__ = ("_began", "_blame", "_histogram", "_operation", "span")

    def __init__(self, span: Span, operation: Operation, histogram: Histogram | None = None) -> None:
        self.span = span
        self._operation = operation
        self._histogram = histogram
        self._blame = ""
        self._began = time.perf_counter()

    def blame(self, kind: str, why: str) -> None:
        """The operation failed without an exception on this side."""
        self._blame = kind
        self.span.set_attribute(naming.ERROR, kind)
        self.span.set_status(Status(StatusCode.ERROR, why))

    def end(self, error: BaseException | None = None) -> None:
        """The operation is over. A cancellation is no error; any other exception is recorded as one."""
        if isinstance(error, Exception):
            self.span.record_exception(error)
            self.blame(type(error).__qualname__, str(error))
        if self._histogram is not None:
            took = time.perf_counter() - self._began
            labels = self._operation.labels
            if self._blame:
                labels = {**labels, naming.ERROR: self._blame}
            self._histogram.record(took, labels, trace.set_span_in_context(self.span))
        self.span.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        self.end(error)


class Sending(Working):
    """A message being sent.

    Attributes:
        headers: to send it with.
        injected: whether they hold more than the caller's own.
    """

    __slots__ = ("headers", "injected")

    def __init__(
        self, span: Span, operation: Operation, histogram: Histogram | None, headers: Headers | None, *, injected: bool
    ) -> None:
        super().__init__(span, operation, histogram)
        self.headers = headers
        self.injected = injected

    def drop_context(self) -> None:
        """The message is too large with it: rather no context than no message."""
        self.injected = False
        self.span.set_attribute(naming.CONTEXT_DROPPED, value=True)


class Processing(Working):
    """A handler at work; its span and the sender's baggage are current inside the block."""

    __slots__ = ("_context", "_token")

    def __init__(self, span: Span, operation: Operation, histogram: Histogram, context: Context) -> None:
        super().__init__(span, operation, histogram)
        self._context = context
        self._token: Token[Context] | None = None

    def __enter__(self) -> Self:
        self._token = current.attach(self._context)
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        if self._token is not None:
            current.detach(self._token)
        self.end(error)
