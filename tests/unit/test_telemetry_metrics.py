"""The counters of ``stats`` as metrics, and how long things take."""

import gc

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from broker import NoResponders, StreamBroker, StreamOptions
from broker.backends.memory import MemoryBackend, MemoryHub
from broker.telemetry import trace_backend
from broker.testing.waiting import eventually


@pytest.fixture
def reader():
    return InMemoryMetricReader()


@pytest.fixture
def meters(reader):
    provider = MeterProvider([reader], shutdown_on_exit=False)
    yield provider
    provider.shutdown()


def points(reader):
    """Metric name -> its data points."""
    data = reader.get_metrics_data()
    metrics = [m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics] if data else []
    return {metric.name: list(metric.data.data_points) for metric in metrics}


def counters(reader):
    return {
        name.removeprefix("gamebroker."): each[0].value
        for name, each in points(reader).items()
        if name.startswith("gamebroker.")
    }


def connected(meters):
    return StreamBroker(trace_backend(MemoryBackend(MemoryHub()), meter_provider=meters))


def ignore(_):
    """A handler that is content."""


def answer(_):
    return b"pong"


async def some_work(sb):
    await sb.declare(StreamOptions("S", ["s"]))
    await sb.subscribe("core", ignore)
    await sb.consume("s", ignore, durable="w")
    await sb.enqueue("s", b"1", idempotency_key="one")
    await sb.enqueue("s", b"1", idempotency_key="one")
    await sb.publish("core", b"")
    await sb.respond("rpc", answer)
    await sb.request("rpc", b"")
    with pytest.raises(NoResponders):
        await sb.request("nobody", b"")
    await eventually(lambda: sb.stats.acked == 1)


async def test_the_metrics_are_the_stats(meters, reader):
    sb = connected(meters)
    await some_work(sb)
    assert counters(reader) == sb.stats.as_dict()
    assert sb.stats.enqueued
    await sb.drain()
    [point] = points(reader)["gamebroker.acked"]
    assert dict(point.attributes) == {"messaging.system": "memory"}


async def test_closing_a_broker_keeps_its_numbers_and_another_adds_to_them(meters, reader):
    for _ in range(2):
        sb = connected(meters)
        await some_work(sb)
        await sb.drain()
    assert counters(reader)["enqueued"] == 2 * sb.stats.enqueued
    third = connected(meters)
    await some_work(third)
    assert counters(reader)["enqueued"] == 3 * sb.stats.enqueued
    await third.drain()


async def test_a_forgotten_backend_is_not_kept_alive(meters, reader):
    backend = trace_backend(MemoryBackend(MemoryHub()), meter_provider=meters)
    backend.stats.published = 5
    inner = backend._backend
    del backend
    gc.collect()
    assert counters(reader)["published"] == 5
    await inner.close()


async def test_operations_and_handlers_are_timed(meters, reader):
    async def fail(_):
        raise ValueError

    sb = connected(meters)
    await some_work(sb)
    await sb.consume("s", fail, durable="other", dead_letter=False, max_deliver=1)
    await eventually(lambda: sb.stats.handler_errors == 1)
    await sb.drain()
    found = points(reader)
    operations = {
        (p.attributes["messaging.operation.name"], p.attributes["messaging.destination.template"]): p
        for p in found["messaging.client.operation.duration"]
    }
    assert operations.keys() == {("enqueue", "s"), ("request", "rpc"), ("request", "nobody")}
    assert operations["enqueue", "s"].count == 2
    assert operations["request", "nobody"].attributes["error.type"] == "NoResponders"
    assert operations["enqueue", "s"].explicit_bounds[0] == 0.005, "bounds are for seconds"
    handlers = {
        (p.attributes["messaging.destination.template"], p.attributes.get("error.type"))
        for p in found["messaging.process.duration"]
    }
    assert handlers == {("core", None), ("rpc", None), ("s", None), ("s", "ValueError")}


async def test_ids_do_not_become_series(meters, reader):
    sb = connected(meters)
    await sb.respond("room.*.rpc", answer)
    for room in range(20):
        await sb.request(f"room.{room}.rpc", b"")
    await sb.drain()
    [point] = points(reader)["messaging.client.operation.duration"]
    assert point.count == 20
    assert "messaging.destination.name" not in point.attributes
