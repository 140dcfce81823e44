"""Traces and metrics really leave the process: over OTLP, to a collector that this test plays."""

import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

PROGRAM = """
import asyncio
from broker import StreamBroker, StreamOptions
from broker.telemetry import export_from_environment

async def main():
    async with StreamBroker.connect("memory://") as sb:
        done = asyncio.Event()
        await sb.declare(StreamOptions("BATTLES", ["battle.settle"]))
        await sb.consume("battle.settle", lambda msg: done.set(), durable="worker")
        await sb.enqueue("battle.settle", b"result")
        await done.wait()

stop = export_from_environment("settlement")
asyncio.run(main())
stop()
"""


class Collector(ThreadingHTTPServer):
    """Keeps what is posted, by path."""

    def __init__(self):
        self.posted = {}
        super().__init__(("127.0.0.1", 0), self.Handler)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.server.posted[self.path] = self.server.posted.get(self.path, b"") + body
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.end_headers()

        def log_message(self, *_):
            """Nothing: the test says what came."""


@pytest.fixture
def collector():
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def run(program, **variables):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**environment, **variables},
        capture_output=True,
        text=True,
        timeout=18,
        check=False,
    )


def test_a_services_traces_and_metrics_reach_the_collector(collector):
    done = run(PROGRAM, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
    assert done.returncode == 0, done.stderr
    traces, metrics = collector.posted["/v1/traces"], collector.posted["/v1/metrics"]
    for name in (b"enqueue battle.settle", b"process battle.settle", b"ack battle.settle", b"settlement"):
        assert name in traces, name
    for name in (b"gamebroker.acked", b"messaging.process.duration", b"settlement"):
        assert name in metrics, name


def test_the_environment_names_the_service(collector):
    done = run(PROGRAM, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_SERVICE_NAME="ledger-eu-1")
    assert done.returncode == 0, done.stderr
    assert b"ledger-eu-1" in collector.posted["/v1/traces"]


def test_without_an_endpoint_nothing_is_loaded():
    done = run(PROGRAM + "\nimport sys; print([name for name in sys.modules if name.startswith('opentelemetry')])")
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_an_endpoint_without_the_sdk_is_a_plain_sentence():
    missing = "import sys; sys.modules['opentelemetry.sdk'] = None\n" + PROGRAM
    done = run(missing, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 1
    assert 'pip install "gamebroker[otel]"' in done.stderr.splitlines()[-1]
