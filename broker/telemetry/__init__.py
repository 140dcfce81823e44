"""Traces and metrics of a backend, as a wrapper of the seam (OpenTelemetry).

Nothing here is imported, wrapped or paid for until the program has set an OpenTelemetry provider: ``configured()``
looks only at what is already loaded, and the rest is imported by the first ``trace_backend``.

Spans follow the messaging conventions: ``publish``, ``request`` and ``enqueue`` (send), ``receive``, ``process`` around
each handler, ``ack``, ``nak`` and ``term`` (settle). The W3C context travels in the message's headers, so one trace
holds a message from the caller to its handler, whatever process that runs in.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from broker.contracts.backend import CoreBackend

    BackendT = TypeVar("BackendT", bound=CoreBackend)

__all__ = ["configured", "export_from_environment", "subject_templates", "trace_backend"]


def configured() -> bool:
    """Whether this program has set a tracer or meter provider. Imports nothing, costs two dictionary look-ups."""
    return any(_is_set(signal, f"get_{kind}_provider") for signal, kind in (("trace", "tracer"), ("metrics", "meter")))


def _is_set(signal: str, getter: str) -> bool:
    api = sys.modules.get(f"opentelemetry.{signal}")
    # The API's own providers (proxy, no-op) stand for "none"; the SDK's, and anybody else's, live elsewhere.
    return api is not None and not type(getattr(api, getter)()).__module__.startswith(f"{api.__name__}")


def trace_backend(
    backend: BackendT,
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    system: str | None = None,
    subject_name: Callable[[str], str] | None = None,
) -> BackendT:
    """The backend inside a wrapper that traces and measures it, and changes nothing else.

    Args:
        backend: any backend; one that stores messages comes back as one that stores messages.
        tracer_provider: where spans go; ``None`` is the program's global one.
        meter_provider: where metrics go; ``None`` is the program's global one.
        system: ``messaging.system``; ``None`` takes the backend's folder name (``nats``, ``memory``).
        subject_name: subject -> the name it has in span names and metrics, of which there must be few. The default
            puts ``*`` for every token that looks like an id (``battle.42.state`` -> ``battle.*.state``);
            ``subject_templates`` makes one from patterns. The whole subject is always an attribute of the span.
    """
    from broker.telemetry.wrapping import wrap  # noqa: PLC0415 - OpenTelemetry is loaded by those who use it

    wrapped: BackendT = wrap(
        backend,
        tracer_provider=tracer_provider,
        meter_provider=meter_provider,
        system=system,
        subject_name=subject_name,
    )
    return wrapped


def subject_templates(*patterns: str) -> Callable[[str], str]:
    """A ``subject_name`` that gives each subject the first pattern that covers it, and the default to the others.

    Raises:
        InvalidSubject: one of them is no pattern.
    """
    from broker.telemetry.naming import by_patterns  # noqa: PLC0415 - see trace_backend

    return by_patterns(patterns)


def export_from_environment(service: str) -> Callable[[], None]:
    """Send traces and metrics to the collector named by ``OTEL_EXPORTER_OTLP_ENDPOINT``; returns how to stop.

    For the main of a service, before it connects. Without that variable nothing is loaded and nothing happens. The
    other ``OTEL_`` variables (headers, sampler, resource, ``OTEL_SERVICE_NAME``) mean what they mean everywhere.

    Args:
        service: the service's name, unless ``OTEL_SERVICE_NAME`` gives another.

    Raises:
        Unsupported: the variable is set, but the extra ``otel`` (SDK and exporters) is not installed.
    """
    from broker.telemetry.exporting import export  # noqa: PLC0415 - see trace_backend

    return export(service)
