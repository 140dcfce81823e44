"""What was recorded of a broker's work, for tests to look at."""

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from broker.backends.memory import MemoryBackend
from broker.telemetry import trace_backend
from broker.testing.waiting import eventually


class Traces:
    """What was recorded, by span name."""

    def __init__(self, **options):
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False, **options)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.meters = MeterProvider(shutdown_on_exit=False)

    def named(self, name):
        return [span for span in self._exporter.get_finished_spans() if span.name == name]

    async def one(self, name):
        found = await eventually(lambda: self.named(name))
        assert len(found) == 1
        return found[0]

    @property
    def names(self):
        return {span.name for span in self._exporter.get_finished_spans()}

    def wrap(self, hub, **options):
        return trace_backend(MemoryBackend(hub), tracer_provider=self.provider, meter_provider=self.meters, **options)


def is_child(child, parent):
    return (child.context.trace_id, child.parent.span_id) == (parent.context.trace_id, parent.context.span_id)


class closing:  # noqa: N801 - stands where contextlib.aclosing would
    def __init__(self, broker):
        self.broker = broker

    async def __aenter__(self):
        return self.broker

    async def __aexit__(self, *_):
        await self.broker.drain()
