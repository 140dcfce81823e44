"""The shipped pytest plugin, as somebody else's project meets it: another process, another directory, both modes."""

import subprocess
import sys
from textwrap import dedent

import pytest

from broker.server import ServerError, node

pytest_plugins = ["pytester"]

USING_EVERY_FIXTURE = dedent("""
    import pytest

    from broker import StreamOptions

    pytestmark = pytest.mark.asyncio

    async def test_the_server_is_real(nats_server):
        assert nats_server.running and nats_server.url.startswith("nats://")

    async def test_a_broker_is_connected(broker):
        seen = []
        await broker.respond("double", lambda msg: msg.json() * 2)
        assert (await broker.request("double", 21)).json() == 42

    @pytest.mark.parametrize("run", [1, 2])
    async def test_every_test_begins_without_streams(stream_broker, run):
        assert [name async for name in stream_broker.streams.names()] == []
        await stream_broker.declare(StreamOptions("orders", ["orders.>"]))
        assert (await stream_broker.enqueue("orders.new", 1, idempotency_key="k")).sequence == 1

    @pytest.mark.parametrize("run", [1, 2])
    async def test_memory_begins_empty_too(memory_stream_broker, run):
        assert [name async for name in memory_stream_broker.streams.names()] == []
        await memory_stream_broker.declare(StreamOptions("orders", ["orders.>"]))
""")

BARE = ["-o", "asyncio_default_fixture_loop_scope=function", "-p", "no:cacheprovider", "-p", "no:hypothesispytest"]


@pytest.mark.timeout(60)
@pytest.mark.nats
def test_every_fixture_works_in_another_process_on_nats(tmp_path):
    (tmp_path / "test_mine.py").write_text(USING_EVERY_FIXTURE)
    command = [sys.executable, "-W", "error", "-m", "pytest", "-W", "error", *BARE, "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert "6 passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.nats
@pytest.mark.parametrize("mode", ["auto", "strict"])
def test_every_fixture_works_in_both_modes_on_nats(pytester, mode):
    pytester.makepyfile(USING_EVERY_FIXTURE)
    pytester.runpytest_inprocess(*BARE, "-o", f"asyncio_mode={mode}", "-W", "error").assert_outcomes(passed=6)


@pytest.mark.parametrize(("ci", "missing"), [("", "skipped"), ("true", "errors")])
def test_without_a_server_tests_are_skipped_on_a_laptop_and_fail_in_ci(pytester, monkeypatch, ci, missing):
    def find_nats_server(*_):
        raise ServerError("no nats-server was found")

    monkeypatch.setattr(node, "find_nats_server", find_nats_server)
    monkeypatch.setenv("CI", ci)
    pytester.makepyfile(USING_EVERY_FIXTURE)
    done = pytester.runpytest_inprocess(*BARE, "-o", "asyncio_mode=auto", "-rA")
    done.assert_outcomes(passed=2, **{missing: 4})
    done.stdout.fnmatch_lines(["*no nats-server was found*"])


def test_the_plugin_loads_no_client_and_no_telemetry():
    ask = (
        "import sys, broker.testing.plugin; print([m for m in ('nats', 'opentelemetry', 'uvloop') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "[]"
