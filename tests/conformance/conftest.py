"""One line per backend: the whole suite runs on each, and the backend's name is part of every test's id."""

from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from uuid import uuid4

import pytest
import pytest_asyncio
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider

from broker import StreamBroker
from broker.backends import open_backend
from broker.contracts.options import ConnectOptions
from broker.telemetry import trace_backend
from broker.testing.plugin import remove_streams


@cache
def providers():
    return {
        "tracer_provider": TracerProvider(shutdown_on_exit=False),
        "meter_provider": MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False),
    }


def bare(backend):
    return backend


def traced(backend):
    return trace_backend(backend, **providers())


@dataclass(frozen=True)
class Backend:
    server: str
    """The fixture that gives something with a ``url`` (and a ``restart``, if it can)."""
    wrap: object = bare
    link: str | None = None


# Telemetry wraps a backend without knowing which: that it changes nothing is shown on the twin, what it says of a real
# server in tests/integration/test_telemetry_*.py.
BACKENDS = {
    "memory": Backend("memory_server"),
    "memory+traced": Backend("memory_server", traced),
    "nats": Backend("nats_server"),
    "nats+nats-py": Backend("nats_server", link="nats-py"),
}


@pytest.fixture
def memory_server():
    return SimpleNamespace(url=f"memory://{uuid4().hex}")


@pytest.fixture(
    params=[
        pytest.param(backend, id=name, marks=[pytest.mark.nats] if "nats" in name else [])
        for name, backend in BACKENDS.items()
    ]
)
def environment(request):
    return request.param, request.getfixturevalue(request.param.server)


@pytest_asyncio.fixture
async def connect(environment):
    backend, server = environment
    opened = []

    async def connect(*, codec=None, id_secret=None, **options):
        wrapped = backend.wrap(await open_backend(ConnectOptions(url=server.url, link=backend.link, **options)))
        try:
            opened.append(StreamBroker(wrapped, codec=codec, id_secret=id_secret))
        except BaseException:
            await wrapped.close()
            raise
        return opened[-1]

    yield connect
    for connected in opened:
        await connected.aclose()
    await remove_streams(server.url)


@pytest.fixture
def restart(environment):
    return getattr(environment[1], "restart", None)


@pytest.fixture
def url(environment):
    return environment[1].url
