"""The SDK set up for a service: traces and metrics over OTLP, as the ``OTEL_`` variables say."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from broker.contracts.errors import Unsupported

if TYPE_CHECKING:
    from collections.abc import Callable

ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
_NAME: Final = "OTEL_SERVICE_NAME"


def export(service: str) -> Callable[[], None]:
    """See ``broker.telemetry.export_from_environment``."""
    if not os.environ.get(ENDPOINT):
        return _nothing_to_stop
    try:
        return _start({} if os.environ.get(_NAME) else {"service.name": service})
    except ImportError as exc:
        raise Unsupported(
            f'{ENDPOINT} is set, but not all it needs is installed: pip install "gamebroker[otel]"'
        ) from exc


def _nothing_to_stop() -> None:
    """Nothing was started."""


def _start(attributes: dict[str, str]) -> Callable[[], None]:
    from opentelemetry import metrics, trace  # noqa: PLC0415 - loaded by those who asked for it
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter  # noqa: PLC0415 - likewise
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - likewise
    from opentelemetry.sdk.metrics import MeterProvider  # noqa: PLC0415 - likewise
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader  # noqa: PLC0415 - likewise
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - likewise
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - likewise
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415 - likewise

    resource = Resource.create(attributes)
    tracers = TracerProvider(resource=resource)
    tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    meters = MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())], resource=resource)
    trace.set_tracer_provider(tracers)
    metrics.set_meter_provider(meters)

    def stop() -> None:
        tracers.shutdown()
        meters.shutdown()

    return stop
