"""A server that is watched: killed, frozen, filled up, killed again and again."""

import asyncio
import os
import signal
import sys
import time

import nats
import pytest

from broker import StreamBroker, StreamOptions
from broker.contracts.errors import InvalidOption
from broker.server import CrashLoop, NatsServer, Watchdog
from broker.testing.waiting import eventually

pytestmark = [pytest.mark.nats, pytest.mark.timeout(60)]

STREAM = StreamOptions("KEPT", ["kept"])
LONG = 30.0
"""Seconds for what takes less than one, on a machine that is busy with other things."""


class Diary:
    """What a watchdog told."""

    def __init__(self):
        self.events = []

    @property
    def kinds(self):
        return [event.kind.value for event in self.events]


@pytest.fixture
def diary():
    return Diary()


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def kill(server):
    """From outside: nobody told the object."""
    os.kill(server.pid, signal.SIGKILL)


async def test_clients_of_a_killed_server_go_on_within_seconds_and_nothing_stored_is_lost(diary):
    async with NatsServer(watchdog=Watchdog(tell=diary.events.append)) as server:
        url, first = server.url, server.pid
        async with StreamBroker.connect(url) as sb:
            await sb.declare(STREAM)
            assert (await sb.enqueue("kept", b"before", idempotency_key="1")).sequence == 1
            begun = time.monotonic()
            kill(server)
            assert (await sb.enqueue("kept", b"after", idempotency_key="2", timeout=LONG)).sequence == 2
            sys.stdout.write(f"stored again {time.monotonic() - begun:.2f} s after kill -9\n")
            assert (await sb.enqueue("kept", b"before", idempotency_key="1")).duplicate
        assert (server.url, server.restarts) == (url, 1)
        assert server.pid != first
        assert diary.kinds == ["died", "restarted"]
        died, back = diary.events
        assert died.detail.startswith("It ended by SIGKILL.\nThe end of its log:\n")
        assert (died.restarts, back.restarts) == (0, 1)
        last = server.pid
    await eventually(lambda: not alive(last))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the server outlives its guardian for a moment")
async def test_a_server_whose_guardian_was_killed_is_brought_back_with_a_new_one(diary):
    async with NatsServer(watchdog=Watchdog(tell=diary.events.append)) as server:
        first = server._process._guardian.pid
        async with await nats.connect(server.url) as client:
            await client.jetstream().add_stream(name="KEPT", subjects=["kept"])
        os.kill(first, signal.SIGKILL)
        await eventually(lambda: diary.kinds == ["died", "restarted"], LONG)
        guardian, pid = server._process._guardian.pid, server.pid
        assert guardian != first
        async with await nats.connect(server.url) as client:
            await client.jetstream().stream_info("KEPT")
    assert not alive(guardian)
    assert not alive(pid)


@pytest.mark.parametrize("how", ["kill", "restart", "stop"])
async def test_what_its_owner_orders_is_not_undone(diary, how):
    async with NatsServer(watchdog=Watchdog(tell=diary.events.append)) as server:
        await getattr(server, how)()
        if how == "restart":
            kill(server)  # it is watched again
            await eventually(lambda: diary.kinds == ["died", "restarted"], LONG)
            assert server.running
        else:
            await asyncio.wait_for(server.wait(), LONG)
            await asyncio.sleep(0.3)  # several looks
            assert not server.running
            await server.start()
            assert server.running
            assert diary.events == []


async def test_a_frozen_server_is_told_of_and_left_alone(diary):
    async with NatsServer(watchdog=Watchdog(patience=0.5, tell=diary.events.append)) as server:
        pid = server.pid
        os.kill(pid, signal.SIGSTOP)
        await eventually(lambda: diary.kinds == ["silent"], LONG)
        assert "no answer for" in diary.events[0].detail
        os.kill(pid, signal.SIGCONT)
        await eventually(lambda: diary.kinds == ["silent", "answers"], LONG)
        assert (server.pid, server.restarts) == (pid, 0)


async def test_who_is_killed_while_frozen_is_brought_back(diary):
    async with NatsServer(watchdog=Watchdog(patience=0.5, tell=diary.events.append)) as server:
        os.kill(server.pid, signal.SIGSTOP)
        await eventually(lambda: diary.kinds == ["silent"], LONG)
        kill(server)
        await eventually(lambda: diary.kinds == ["silent", "died", "restarted"], LONG)
        async with await nats.connect(server.url) as client:
            await client.flush()


async def test_one_that_dies_again_and_again_is_given_up_with_the_reason(diary):
    def tell(event):
        diary.events.append(event)
        if event.kind == "restarted":
            asyncio.get_running_loop().call_soon(kill, server)

    server = NatsServer(watchdog=Watchdog(restarts=2, tell=tell))
    await server.start()
    kill(server)
    with pytest.raises(CrashLoop) as gave_up:
        await asyncio.wait_for(server.wait(), LONG)
    assert diary.kinds == [*(["died", "restarted"] * 2), "died", "gave_up"]
    told = str(gave_up.value)
    assert told.startswith("nats-server ended 3 times in 60 s and is not started again.")
    assert str(server.store_dir) in told, "the store is kept"
    assert server.store_dir.exists()
    assert "It ended by SIGKILL" in told
    assert "[INF] Server is ready" in told, "the end of its log"
    assert not server.running
    await server.start()  # by hand, when the reason is mended
    assert server.running
    await server.stop()


async def test_one_that_cannot_start_again_is_given_up_with_its_own_words(diary):
    async with NatsServer(watchdog=Watchdog(restarts=2, tell=diary.events.append)) as server:
        server.settings = type(server.settings)(host=server.settings.host, port=server.port, text="no option")
        kill(server)
        with pytest.raises(CrashLoop, match='unknown field "no"'):
            await asyncio.wait_for(server.wait(), LONG)
        assert diary.kinds == ["died", "gave_up"]


async def test_stopping_while_it_is_brought_back_leaves_nothing():
    back = asyncio.Event()
    server = NatsServer(watchdog=Watchdog(tell=lambda event: event.kind == "died" and back.set()))
    await server.start()
    store = server.store_dir
    kill(server)
    await asyncio.wait_for(back.wait(), LONG)
    await asyncio.sleep(0)
    await server.stop()
    assert not server.running
    assert not store.exists()


async def test_starting_while_it_is_brought_back_waits_until_it_is_ready():
    back = asyncio.Event()
    async with NatsServer(watchdog=Watchdog(tell=lambda event: event.kind == "died" and back.set())) as server:
        kill(server)
        await asyncio.wait_for(back.wait(), LONG)
        await asyncio.sleep(0)
        await server.start()
        async with await nats.connect(server.url) as client:
            await client.flush()


async def test_a_store_that_is_nearly_full_is_told_of_once_and_so_is_room(diary, monkeypatch):
    monkeypatch.setattr("broker.server.watchdog._LOOK_FOR_ROOM", 0.1)
    config = "jetstream { max_file_store: 1MB }"
    watchdog = Watchdog(full_at=0.5, min_free=0, tell=diary.events.append)
    async with NatsServer(config=config, monitoring=True, watchdog=watchdog) as server:  # noqa: SIM117 - its URL comes later
        async with StreamBroker.connect(server.url) as sb:
            await sb.declare(STREAM)
            for n in range(7):
                await sb.enqueue("kept", bytes(100_000), idempotency_key=f"{n}")
            await eventually(lambda: diary.kinds == ["nearly_full"], LONG)
            assert "of 1048576 bytes stored" in diary.events[0].detail
            await sb.streams.purge("KEPT")
            await eventually(lambda: diary.kinds == ["nearly_full", "room_again"], LONG)


async def test_a_disk_that_is_nearly_full_is_told_of(diary, caplog):
    async with NatsServer(watchdog=Watchdog(min_free=2**61, tell=diary.events.append)) as server:
        await eventually(lambda: diary.kinds == ["nearly_full"], LONG)
        assert f"MiB free on the disk of {server.store_dir}" in diary.events[0].detail
    assert "nats-server nearly full: " in caplog.text


async def test_a_listener_that_fails_is_logged_and_the_watch_goes_on(caplog):
    def tell(_):
        raise ZeroDivisionError

    async with NatsServer(watchdog=Watchdog(tell=tell)) as server:
        kill(server)
        await eventually(lambda: server.restarts == 1 and server.running, LONG)
    assert "tell= of the watchdog failed on died" in caplog.text


@pytest.mark.parametrize(
    ("option", "value"), [("patience", 0.1), ("restarts", -1), ("window", 0), ("full_at", 1.1), ("min_free", -1)]
)
def test_what_cannot_be_is_refused_at_once(option, value):
    with pytest.raises(InvalidOption, match=f"{option}={value}"):
        Watchdog(**{option: value})


def server_of(store):
    """The pid, by the file nats-server writes."""
    [ports] = store.glob("*.ports")
    return int(ports.stem.rpartition("_")[2])


async def test_an_embedded_server_is_brought_back(tmp_path):
    store = tmp_path / "store"
    async with StreamBroker.connect(f"embedded://{store}") as sb:
        await sb.declare(STREAM)
        assert (await sb.enqueue("kept", b"before", idempotency_key="1")).sequence == 1
        os.kill(server_of(store), signal.SIGKILL)
        assert (await sb.enqueue("kept", b"after", idempotency_key="2", timeout=LONG)).sequence == 2
        last = server_of(store)
    await eventually(lambda: not alive(last))


async def test_the_command_brings_its_server_back(tmp_path):
    command = [sys.executable, "-m", "broker.server", "--port", "0", "--store", str(tmp_path / "store")]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        url = (await asyncio.wait_for(process.stdout.readline(), LONG)).decode().strip()
        async with StreamBroker.connect(url) as sb:
            await sb.declare(STREAM)
            os.kill(server_of(tmp_path / "store"), signal.SIGKILL)
            assert (await sb.enqueue("kept", b"after", idempotency_key="2", timeout=LONG)).sequence == 1
        process.send_signal(signal.SIGTERM)
        _, said = await asyncio.wait_for(process.communicate(), LONG)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0
    assert b"nats-server died: It ended by SIGKILL" in said
    assert b"nats-server restarted: back after" in said
