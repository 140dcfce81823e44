"""One real server."""

import asyncio
import os
import signal
import socket
import stat
import sys
import threading
import time
from pathlib import Path

import nats
import pytest
import uvloop

from broker.server import InUse, NatsServer, ServerError

pytestmark = pytest.mark.nats


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def gone(*pids: int, within: float = 2.0) -> None:
    deadline = time.monotonic() + within
    while left := [pid for pid in pids if alive(pid)]:
        assert time.monotonic() < deadline, f"still there: {left}"
        await asyncio.sleep(0.01)


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def guardian_of(server: NatsServer) -> int:
    return server._process._guardian.pid


async def store_one(url: str, body: bytes) -> None:
    async with await nats.connect(url) as client:
        stream = client.jetstream()
        await stream.add_stream(name="KEPT", subjects=["kept"])
        await stream.publish("kept", body)


async def last_stored(url: str) -> bytes:
    async with await nats.connect(url) as client:
        return (await client.jetstream().get_last_msg("KEPT", "kept")).data


async def test_starts_quickly_and_leaves_nothing():
    begun = time.perf_counter()
    server = NatsServer()
    await server.start()
    took = time.perf_counter() - begun
    sys.stdout.write(f"started in {took:.3f} s\n")
    pid, guardian, store = server.pid, guardian_of(server), server.store_dir
    assert took < 10
    assert server.running
    assert server.url == f"nats://127.0.0.1:{server.port}"
    assert server.version.startswith("2.")
    assert store.is_dir()
    await server.stop()
    await server.stop()
    assert not alive(pid)
    assert not alive(guardian)
    assert not store.exists()
    assert not server.running
    assert server.pid is None


async def test_jetstream_syncs_always_unless_told_otherwise():
    async with NatsServer() as server, await nats.connect(server.url) as client:
        await client.jetstream().account_info()
        assert "sync_interval" in (server.store_dir / "nats-server.conf").read_text()
    async with NatsServer(sync_interval=None) as server, await nats.connect(server.url) as client:
        await client.jetstream().account_info()
        assert "sync_interval" not in (server.store_dir / "nats-server.conf").read_text()


async def test_options_reach_the_server():
    server = NatsServer(max_payload=4096, name="mine", config="max_connections: 7", monitoring=True)
    async with server, await nats.connect(server.url) as client:
        assert client.max_payload == 4096
        assert client._server_info["server_name"] == "mine"
        assert await server.health() == ""
        assert server.monitoring_url is not None
        reader, writer = await asyncio.open_connection("127.0.0.1", int(server.monitoring_url.rsplit(":", 1)[1]))
        writer.write(b"GET /varz HTTP/1.0\r\n\r\n")
        assert b'"max_connections": 7' in await reader.read()
        writer.close()
        await writer.wait_closed()


async def test_listens_on_loopback_only():
    async with NatsServer() as server:
        with socket.socket() as other:
            other.bind(("127.0.0.2", server.port))  # would be in use if the server listened on all addresses


async def test_two_at_once():
    async with NatsServer() as one, NatsServer() as two:
        assert one.port != two.port
        assert one.store_dir != two.store_dir
        await store_one(one.url, b"one")
        await store_one(two.url, b"two")
        assert await last_stored(one.url) == b"one"


async def test_a_restart_keeps_port_and_messages():
    async with NatsServer() as server:
        url, pid = server.url, server.pid
        await store_one(url, b"kept")
        await server.restart()
        assert server.url == url
        assert server.pid != pid
        assert await last_stored(url) == b"kept"


async def test_a_given_store_outlives_the_server(tmp_path: Path):
    async with NatsServer(tmp_path / "a store") as server:
        await store_one(server.url, b"kept")
    assert stat.S_IMODE((tmp_path / "a store" / "nats-server.conf").stat().st_mode) == 0o600
    async with NatsServer(tmp_path / "a store") as server:
        assert await last_stored(server.url) == b"kept"


@pytest.mark.fault
async def test_a_kill_keeps_what_was_acknowledged():
    async with NatsServer() as server:
        url, pid = server.url, server.pid
        await store_one(url, b"kept")
        await server.kill()
        assert not alive(pid)
        assert not server.running
        await server.start()
        assert server.url == url
        assert await last_stored(url) == b"kept"


@pytest.mark.fault
async def test_a_server_that_dies_by_itself_is_noticed():
    async with NatsServer() as server:
        os.kill(server.pid, signal.SIGKILL)
        await asyncio.wait_for(server.wait(), 2)
        assert not server.running
        with pytest.raises(ServerError, match="no nats-server is running"):
            server.lame_duck()
        await server.start()
        assert server.running


@pytest.mark.fault
async def test_stop_escalates_when_the_server_is_frozen():
    server = NatsServer()
    await server.start()
    pid = server.pid
    await server.freeze()
    begun = time.monotonic()
    await server.stop(timeout=0.3)
    assert 0.3 <= time.monotonic() - begun < 8
    assert not alive(pid)


@pytest.mark.fault
async def test_a_frozen_server_says_nothing_until_it_thaws():
    async with NatsServer() as server, await nats.connect(server.url) as client:
        await server.freeze()
        assert server.running
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.flush(timeout=10), 0.3)
        await server.thaw()
        await client.flush(timeout=5)


async def test_reload_takes_a_new_configuration_and_tells_of_a_bad_one():
    async with NatsServer() as server:
        await server.reload("max_payload: 2048")
        async with await nats.connect(server.url) as client:
            assert client.max_payload == 2048
        with pytest.raises(ServerError, match="Failed to reload"):
            await server.reload("max_payload: nonsense")
        assert server.running


async def test_a_lame_duck_says_so():
    async with NatsServer(config='lame_duck_grace_period: "100ms"') as server:
        server.lame_duck()
        deadline = time.monotonic() + 5
        while "Entering lame duck mode" not in server.last_words:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)


async def test_an_early_end_shows_the_log():
    server = NatsServer(config="no_such_option: 1")
    with pytest.raises(ServerError, match="no_such_option") as failed:
        await server.start()
    assert "ended before it was ready" in str(failed.value)
    with pytest.raises(ServerError, match="temporary store"):
        _ = server.store_dir


async def test_a_missing_binary_is_told_at_start(tmp_path: Path):
    with pytest.raises(ServerError, match="no executable nats-server"):
        await NatsServer(binary=tmp_path / "none").start()


async def test_a_port_that_stays_taken_is_told():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InUse, match="address already in use"):
            await NatsServer(port=taken.getsockname()[1]).start(timeout=0.5)


async def test_a_port_that_becomes_free_is_waited_for():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = NatsServer(port=taken.getsockname()[1])
        starting = asyncio.create_task(server.start())
        await asyncio.sleep(0.3)
        assert not starting.done()
    await starting
    await server.stop()


async def test_a_chosen_port_that_was_taken_meanwhile_is_replaced(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        offers = iter([[taken.getsockname()[1]]])
        really = __import__("broker.server.ports", fromlist=["free_ports"]).free_ports
        monkeypatch.setattr("broker.server.node.free_ports", lambda n, host: next(offers, None) or really(n, host))
        async with NatsServer() as server:
            assert server.port != taken.getsockname()[1]


async def test_a_store_is_used_by_one_server_at_a_time(tmp_path: Path):
    async with NatsServer(tmp_path):
        with pytest.raises(InUse, match="another nats-server uses the store"):
            await NatsServer(tmp_path).start(timeout=0.3)


@pytest.mark.parametrize("after", [0.0, 0.01, 0.03, 0.06])
async def test_a_cancelled_start_leaves_nothing(monkeypatch, tmp_path: Path, after):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    server = NatsServer()
    starting = asyncio.create_task(server.start())
    await asyncio.sleep(after)
    process = server._process
    starting.cancel()
    try:
        await starting
    except asyncio.CancelledError:
        pass
    else:
        await server.stop()
    assert not server.running
    assert names_in(tmp_path) == []
    if process is not None:
        assert process._guardian.poll() is not None
        assert process.pid is None or not alive(process.pid)


async def test_a_cancelled_stop_ends_in_the_background():
    server = NatsServer()
    await server.start()
    pid, guardian, store = server.pid, guardian_of(server), server.store_dir
    await server.freeze()
    stopping = asyncio.create_task(server.stop(timeout=10))
    await asyncio.sleep(0.05)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    await gone(pid, guardian)
    assert not store.exists()


async def test_a_login_is_used_by_the_probe():
    config = "authorization { user: u, password: p }"
    async with NatsServer(config=config, login={"user": "u", "pass": "p"}) as server:
        await store_one(server.url.replace("//", "//u:p@"), b"kept")
    async with NatsServer(config=config) as server:  # greeting is all it can do
        await store_one(server.url.replace("//", "//u:p@"), b"kept")
    with pytest.raises(ServerError, match="Authorization Violation"):
        await NatsServer(config=config, login={"user": "u", "pass": "wrong"}).start()


def test_any_event_loop_and_any_thread():
    server = NatsServer()
    asyncio.run(server.start())
    pid = server.pid
    thread = threading.Thread(target=lambda: uvloop.run(server.restart()))
    thread.start()  # what it raises fails the test
    thread.join()
    assert server.running  # although the thread that started it is gone
    assert server.pid != pid
    uvloop.run(server.stop())
    assert not server.running
