"""No server outlives the program that started it."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from broker.server import NatsServer

pytestmark = [pytest.mark.nats, pytest.mark.fault]

ONE = """
import asyncio, signal, sys
from broker.server import NatsServer

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that runs tests in the background has it ignored

async def main():
    server = NatsServer()
    await server.start()
    print(server.pid, server._process._guardian.pid, server.store_dir, flush=True)
    {then}

asyncio.run(main())
"""
THREE = """
import asyncio
from broker.server import Cluster

async def main():
    cluster = Cluster()
    await cluster.start()
    for node in cluster.nodes:
        print(node.pid, node._process._guardian.pid, node.store_dir, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""
WAIT = "await asyncio.sleep(60)"
FROZEN = "await server.freeze(); print('ready', flush=True); await asyncio.sleep(60)"
FORK = """import os
    child = os.fork()
    if not child:
        import time
        time.sleep(5)
        os._exit(0)
    print(child, flush=True)
    await asyncio.sleep(60)"""


def started(program: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def told(program: subprocess.Popen[str]) -> tuple[list[int], Path]:
    server, guardian, store = program.stdout.readline().split()
    return [int(server), int(guardian)], Path(store)


def alive(pid: int) -> bool:
    """A process that has ended but was not reaped yet, by an init that takes its time, is not alive."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.strip().startswith("Z")


def gone(pids: list[int], stores: list[Path], within: float = 8.0) -> float:
    begun = time.monotonic()
    while left := [pid for pid in pids if alive(pid)] + [store for store in stores if store.exists()]:
        assert time.monotonic() - begun < within, f"still there: {left}"
        time.sleep(0.01)
    return time.monotonic() - begun


def end(program: subprocess.Popen[str]) -> None:
    program.kill()
    program.communicate()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_program_takes_its_server_along(number):
    program = started(ONE.format(then=WAIT))
    try:
        pids, store = told(program)
        assert all(alive(pid) for pid in pids)
        program.send_signal(number)
        sys.stdout.write(f"server gone {gone(pids, [store]):.2f} s after {number.name}\n")
    finally:
        end(program)


@pytest.mark.parametrize("then", ["return", "raise SystemExit(1)", "import os; os._exit(0)"])
def test_a_program_that_ends_without_stopping_takes_its_server_along(then):
    program = started(ONE.format(then=then))
    try:
        pids, store = told(program)
        gone(pids, [store])
    finally:
        end(program)


def test_a_killed_program_takes_its_cluster_along():
    program = started(THREE)
    try:
        nodes = [told(program) for _ in range(3)]
        program.kill()
        took = gone([pid for pids, _ in nodes for pid in pids], [store for _, store in nodes])
        sys.stdout.write(f"cluster gone {took:.2f} s after SIGKILL\n")
    finally:
        end(program)


def test_a_frozen_server_goes_too():
    program = started(ONE.format(then=FROZEN))
    try:
        pids, store = told(program)
        program.stdout.readline()
        program.kill()
        gone(pids, [store])
    finally:
        end(program)


def test_a_forked_copy_of_the_program_does_not_keep_the_server():
    program = started(ONE.format(then=FORK))
    copy = 0
    try:
        pids, store = told(program)
        copy = int(program.stdout.readline())
        program.kill()
        program.wait()
        gone(pids, [store])
        assert alive(copy)
    finally:
        if copy:
            os.kill(copy, signal.SIGKILL)
        end(program)


def test_the_terminals_interrupt_is_not_for_the_server():
    program = started(ONE.format(then=WAIT))
    try:
        (server, guardian), _ = told(program)
        groups = {os.getpgid(server), os.getpgid(guardian)}
        assert os.getpgid(program.pid) not in groups
        assert os.getsid(server) != os.getsid(program.pid)
    finally:
        end(program)


async def test_a_killed_guardian_leaves_no_server():
    server = NatsServer()
    await server.start()
    try:
        pid, store, url = server.pid, server.store_dir, server.url
        os.kill(server._process._guardian.pid, signal.SIGKILL)
        deadline = time.monotonic() + 2
        while server.running or alive(pid):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        assert store.exists()
        await server.start()
        assert server.url == url
        assert server.store_dir == store
    finally:
        await server.stop()
    assert not store.exists()


async def test_a_terminated_guardian_ends_its_server_in_order(tmp_path: Path):
    server = NatsServer(tmp_path / "store")
    await server.start()
    try:
        os.kill(server._process._guardian.pid, signal.SIGTERM)
        await asyncio.wait_for(server.wait(), 10)
        assert "Server Exiting" in server.last_words
    finally:
        await server.stop()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_line_serves_until_a_signal(number, tmp_path: Path):
    command = [sys.executable, "-m", "broker.server", "--port", "0", "--store", str(tmp_path / "store")]
    program = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert program.stdout.readline().startswith("nats://127.0.0.1:")
        program.send_signal(number)
        assert program.communicate(timeout=10) == ("", "")
        assert program.returncode == 0
        assert (tmp_path / "store" / "jetstream").is_dir()
    finally:
        end(program)


def test_the_command_line_serves_a_cluster():
    command = [sys.executable, "-m", "broker.server", "--port", "0", "--cluster", "3"]
    program = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert program.stdout.readline().count("nats://127.0.0.1:") == 3
        program.terminate()
        program.communicate(timeout=10)
        assert program.returncode == 0
    finally:
        end(program)


def test_the_command_line_says_which_port_is_taken():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "broker.server", "--port", str(port)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=15, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"port {port} of 127.0.0.1" in done.stderr
    assert "--port" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    told = subprocess.run([*command, "--help"], capture_output=True, text=True, timeout=15, check=False).stdout
    assert "default: 4222" in " ".join(told.split())


def test_the_command_line_tells_what_is_wrong(tmp_path: Path):
    (tmp_path / "file").touch()
    for wrong in (["--cluster", "2"], ["--store", str(tmp_path / "file" / "store")]):
        command = [sys.executable, "-m", "broker.server", "--port", "0", *wrong]
        done = subprocess.run(command, capture_output=True, text=True, timeout=15, check=False)
        assert done.returncode == 1
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
        assert len(done.stderr.splitlines()) == 1
