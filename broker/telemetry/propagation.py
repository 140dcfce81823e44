"""The W3C trace context and baggage in a message's headers, through the propagator the program has set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from opentelemetry import baggage, propagate, trace
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter

from broker.contracts.headers import NO_HEADERS, Headers

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanContext

_NOTHING: Final = Context()


class _FromHeaders(Getter[Headers]):
    def get(self, carrier: Headers, key: str) -> list[str] | None:
        return carrier.get_all(key) or None

    def keys(self, carrier: Headers) -> list[str]:
        return list(carrier)


_GETTER: Final = _FromHeaders()


class CarryingHeaders(Headers):
    """Headers with a trace context in them, which is not what the sender's application put in."""

    __slots__ = ()

    def public(self) -> Headers:
        """Without the reserved names and without the context: a handler finds that where it is current."""
        context = _context_names()
        return Headers(pair for pair in super().public().pairs if pair[0].lower() not in context)


def arrived(headers: Headers | None) -> Headers | None:
    """Headers as they came in, the context in them kept but out of the application's sight."""
    if headers is None or not headers.pairs:
        return headers
    context = _context_names()
    if not any(name.lower() in context for name, _ in headers.pairs):
        return headers
    return CarryingHeaders(headers.pairs, status=headers.status, status_text=headers.status_text)


def _context_names() -> set[str]:
    return {name.lower() for name in propagate.get_global_textmap().fields}


def extract(headers: Headers | None) -> Context:
    """What the sender sent along, and nothing of what surrounds the receiver."""
    return propagate.extract(headers, _NOTHING, getter=_GETTER) if headers else _NOTHING


def remote_span(headers: Headers | None) -> SpanContext:
    """The span that sent these headers; not valid when they name none."""
    return trace.get_current_span(extract(headers)).get_span_context() if headers else trace.INVALID_SPAN_CONTEXT


def inject(headers: Headers | None, span: Span, *, unsampled: bool) -> Headers | None:
    """The headers with the span's context and the current baggage; a name that is there already stays as it is.

    Args:
        headers: of the message; never changed.
        span: the one that sends it.
        unsampled: whether the message carries the context of a span that nobody records, too. It should, so that the
            receiver does not record half a trace; a core frame without headers is cheaper still.
    """
    if not (unsampled or span.get_span_context().trace_flags.sampled or baggage.get_all()):
        return headers
    carrier: dict[str, str] = {}
    propagate.inject(carrier, trace.set_span_in_context(span))
    known = headers if headers is not None else NO_HEADERS
    added = [(name, value) for name, value in carrier.items() if name not in known]
    return known.adding(*added) if added else headers
