"""The wrapper changes nothing but what it adds, and is not there at all when nobody asked for it."""

import inspect
import subprocess
import sys
from contextlib import contextmanager

import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider

from broker import Broker, BrokerClosed, ConsumerOptions, StreamBroker, StreamOptions
from broker.backends.memory import MemoryBackend, MemoryHub
from broker.backends.memory.core import MemoryCore
from broker.contracts.backend import CoreBackend, DeliverySource, StreamBackend
from broker.contracts.envelopes import Envelope, Record
from broker.telemetry import configured, trace_backend
from broker.telemetry.core import TracedCore
from broker.telemetry.naming import template_of
from broker.telemetry.streams import TracedSource, TracedStreams
from broker.telemetry.wrapping import system_of


@pytest.fixture
def backend():
    return MemoryBackend(MemoryHub())


def run(program):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=15, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


async def test_a_core_backend_stays_a_core_backend(backend):
    assert type(trace_backend(backend)) is TracedStreams
    core = trace_backend(MemoryCore(MemoryHub()))
    assert type(core) is TracedCore
    assert not hasattr(core, "append")
    Broker(core)
    with pytest.raises(Exception, match="no streams"):
        StreamBroker(core)


async def test_it_is_the_backend_in_all_that_can_be_seen(backend):
    wrapped = trace_backend(backend)
    for name in ("capabilities", "board", "stats", "max_payload", "congested", "outbox"):
        assert getattr(wrapped, name) == getattr(backend, name), name
    assert wrapped.new_inbox().startswith("_INBOX.")
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = wrapped.no_such_thing
    await wrapped.close()
    with pytest.raises(BrokerClosed):
        wrapped.publish("a", b"", None)
    with pytest.raises(BrokerClosed):
        wrapped.append(Record("a", b"", None, "id"), timeout=1)


@pytest.mark.parametrize(
    ("wrapper", "protocol"), [(TracedCore, CoreBackend), (TracedStreams, StreamBackend), (TracedSource, DeliverySource)]
)
def test_every_member_of_the_seam_is_wrapped_with_the_same_signature(wrapper, protocol):
    for name, promised in inspect.getmembers(protocol, callable):
        if not name.startswith("_"):
            assert inspect.signature(getattr(wrapper, name)) == inspect.signature(promised), name
            assert any(name in vars(each) for each in wrapper.__mro__ if each.__module__.startswith("broker.telemetry"))


async def test_a_source_is_the_source_in_all_that_can_be_seen(backend):
    await backend.create_stream(StreamOptions("S", ["s"]))
    options = ConsumerOptions(durable="w", filters=["s"])
    source = await trace_backend(backend).open_consumer(options)
    assert (source.stream, source.consumer, source.resume_sequence) == ("S", "w", 1)
    assert source.release
    await source.close()
    await source.close()
    await backend.close()


async def test_around_composes(backend):
    order = []

    def noting(name):
        @contextmanager
        def around(message):
            order.append(f"{name} in {message.subject}")
            yield
            order.append(f"{name} out")

        return around

    backend.around = noting("inner")
    wrapped = trace_backend(backend)
    with wrapped.around(Envelope("s", b"")):
        order.append("handler")
    assert order == ["inner in s", "handler", "inner out"]
    with pytest.raises(ValueError, match="mine"), wrapped.around(Envelope("s", b"")):
        raise ValueError("mine")


async def test_wrapping_twice_is_still_one_backend(backend):
    sb = StreamBroker(trace_backend(trace_backend(backend)))
    got = []
    await sb.declare(StreamOptions("S", ["s"]))
    await sb.consume("s", got.append, durable="w")
    receipt = await sb.enqueue("s", b"x")
    await sb.drain()
    assert receipt.sequence == 1
    assert [each.data for each in got] == [b"x"]


def test_without_opentelemetry_nothing_of_it_is_loaded():
    told = run(
        "import asyncio, sys, broker\n"
        "async def main():\n"
        "    async with broker.StreamBroker.connect('memory://') as sb:\n"
        "        await sb.publish('a', b'')\n"
        "        print(type(sb._backend).__name__, sb._backend.around)\n"
        "asyncio.run(main())\n"
        "print(sum(name.startswith('opentelemetry') for name in sys.modules))\n"
    )
    assert told == ["MemoryBackend", "None", "0"]


def test_an_api_without_a_provider_is_not_configured():
    told = run(
        "import broker.telemetry as t\n"
        "from opentelemetry import metrics, trace\n"
        "print(t.configured())\n"
        "trace.set_tracer_provider(trace.NoOpTracerProvider())\n"
        "metrics.set_meter_provider(metrics.NoOpMeterProvider())\n"
        "print(t.configured())\n"
    )
    assert told == ["False", "False"]


@pytest.mark.parametrize(
    ("api", "attribute", "provider"),
    [
        (trace, "get_tracer_provider", lambda: TracerProvider(shutdown_on_exit=False)),
        (metrics, "get_meter_provider", lambda: MeterProvider(shutdown_on_exit=False)),
    ],
)
async def test_one_provider_is_enough_to_be_traced_by_connect(monkeypatch, api, attribute, provider):
    assert not configured()
    made = provider()
    monkeypatch.setattr(api, attribute, lambda: made)
    assert configured()
    async with StreamBroker.connect("memory://") as sb:
        assert isinstance(sb._backend, TracedStreams)
        await sb.publish("a", b"")


def test_the_system_is_the_folder():
    assert system_of(MemoryBackend) == "memory"
    assert system_of(type("Theirs", (), {"__module__": "acme.kafka"})) == "acme"


@pytest.mark.parametrize(
    ("subject", "template"),
    [
        ("battle.settle", "battle.settle"),
        ("battle.42.state", "battle.*.state"),
        ("player.p7-a.mail", "player.*.mail"),
        ("_INBOX.8f0c.1", "_INBOX.*.*"),
        ("_INBOX.AbCdEfGhIjKlMnOpQrStUv", "_INBOX.*"),
        ("a", "a"),
    ],
)
def test_ids_become_stars(subject, template):
    assert template_of(subject) == template
