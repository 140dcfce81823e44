"""Puts a backend into the wrapper that fits it."""

from __future__ import annotations

from functools import lru_cache
from importlib import metadata
from typing import TYPE_CHECKING, Any

from opentelemetry import trace

from broker.telemetry.core import TracedCore
from broker.telemetry.metrics import SCOPE, instruments_of
from broker.telemetry.naming import template_of
from broker.telemetry.probe import Probe
from broker.telemetry.streams import TracedStreams

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider


def wrap(
    backend: Any,
    *,
    tracer_provider: TracerProvider | None,
    meter_provider: MeterProvider | None,
    system: str | None,
    subject_name: Callable[[str], str] | None,
) -> Any:
    """See ``broker.telemetry.trace_backend``."""
    probe = Probe(
        trace.get_tracer(SCOPE, _version(), tracer_provider),
        instruments_of(meter_provider, _version()),
        system if system is not None else system_of(type(backend)),
        subject_name if subject_name is not None else template_of,
    )
    # Asked of the object, not of its bases: a backend from elsewhere need not name ours as base.
    wrapper = TracedStreams if hasattr(backend, "append") else TracedCore
    return wrapper(backend, probe)


def system_of(backend: type) -> str:
    """``broker.backends.nats.core`` -> ``nats``; for a backend from elsewhere its package's name."""
    own = backend.__module__.removeprefix("broker.backends.")
    return own.split(".", 1)[0]


@lru_cache(1)
def _version() -> str:
    try:
        return metadata.version("gamebroker")
    except metadata.PackageNotFoundError:
        return ""
