"""A server without JetStream, the commonest first mistake: core messages work, everything else says what is missing."""

import asyncio
from contextlib import asynccontextmanager, suppress
from time import monotonic

import pytest

from broker import EnqueueManyError, Entry, JetStreamNotEnabled, StreamBroker, StreamOptions
from broker.server import find_nats_server
from broker.server.ports import free_ports
from broker.testing.waiting import eventually
from tests.integration.test_doctor import doctor, levels, said

pytestmark = [pytest.mark.nats, pytest.mark.timeout(60)]


@asynccontextmanager
async def plain_server():
    port = free_ports(1, "127.0.0.1")[0]
    binary = find_nats_server()
    command = [str(binary.path), "--addr", "127.0.0.1", "--port", str(port)]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)

    async def greets():
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return True

    try:
        await eventually(greets, within=20)
        yield f"nats://127.0.0.1:{port}"
    finally:
        process.kill()
        await process.wait()


@pytest.fixture
async def sb(link):
    async with plain_server() as url, StreamBroker.connect(url, link=link) as connected:
        yield connected


ASKED = {
    "enqueue": lambda sb: sb.enqueue("battle.settle", {}),
    "enqueue_many": lambda sb: sb.enqueue_many([Entry("battle.settle", {})]),
    "declare": lambda sb: sb.declare(StreamOptions("BATTLES", ["battle.>"])),
    "consume": lambda sb: sb.consume("battle.settle", print, durable="worker"),
    "key_value": lambda sb: sb.key_value("board"),
}


@pytest.mark.parametrize("verb", ASKED)
async def test_it_is_said_soon_and_with_what_to_do(sb, verb):
    began = monotonic()
    with pytest.raises((JetStreamNotEnabled, EnqueueManyError), match="no JetStream: start nats-server with -js"):
        await ASKED[verb](sb)
    assert monotonic() - began < 10


async def test_core_messages_work(sb):
    heard = []
    await sb.subscribe("battle.1.state", heard.append)
    sb.publish_nowait("battle.1.state", b"frame")
    await eventually(lambda: heard)


async def test_the_doctor_calls_it_a_problem():
    async with plain_server() as url:
        code, found = await doctor("--url", url)
    assert (code, levels(found, "jetstream")) == (1, {"problem"})
    assert "-js" in said(found, "jetstream")
