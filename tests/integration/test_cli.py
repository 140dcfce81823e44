"""The command as a person runs it: a process, a real server, lines and exit codes."""

import asyncio
import sys

import pytest

from broker import StreamOptions
from broker.testing.waiting import eventually
from tests.limited import limited, worn_out

pytestmark = pytest.mark.nats


async def gamebroker(url, *arguments):
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "broker.cli.main",
        "--url",
        url,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_storing_by_hand_and_looking_at_it(nats_server, stream_broker):
    await stream_broker.declare(StreamOptions("S", ["s.>"]))
    assert await gamebroker(nats_server.url, "enqueue", "s.a", "1", "--key", "k") == (0, "S 1\n", "")
    assert await gamebroker(nats_server.url, "enqueue", "s.a", "1", "--key", "k") == (0, "S 1 duplicate\n", "")
    code, out, _ = await gamebroker(nats_server.url, "streams")
    assert code == 0
    assert "S messages=1 " in out


async def test_dead_letters_are_listed_replayed_and_discarded(nats_server, stream_broker):
    sb = stream_broker
    await sb.declare(StreamOptions("S", ["s.>"]))

    async def fail(_msg):
        raise LookupError("no such player")

    consumption = await sb.consume("s.a", fail, durable="w", max_deliver=1)
    await sb.enqueue("s.a", 1, idempotency_key="k1")
    await sb.enqueue("s.a", 2)
    await eventually(lambda: sb.stats.terminated == 2)
    await consumption.drain()
    code, out, _ = await gamebroker(nats_server.url, "dead-letters")
    assert code == 0
    assert out.splitlines()[0] == (
        "1 s.a from S/1 by w attempts=1 reason='max_deliver' key=k1 LookupError: no such player"
    )
    assert (await gamebroker(nats_server.url, "replay", "--sequence", "1"))[1] == "replayed 1\n"
    assert (await gamebroker(nats_server.url, "discard", "2", "seen to"))[1] == "discarded\n"
    assert (await gamebroker(nats_server.url, "discard", "2", "again"))[1] == "not there\n"
    assert (await gamebroker(nats_server.url, "dead-letters"))[1] == ""


async def test_what_the_server_gave_up_on_is_swept(nats_server, stream_broker):
    sb = stream_broker
    await sb.declare(StreamOptions("S", ["s.>"]))
    await limited(sb)
    await sb.enqueue("s.a", 1)
    await worn_out(sb, 1)
    nothing = "written=0 gone=0 undecided=0 unknown=0\n"
    code, out, err = await gamebroker(nats_server.url, "sweep", "S")
    assert (code, out) == (0, nothing.replace("written=0", "written=1"))
    assert "gave up in w, max_deliver (server): dead letter 1" in err
    assert await gamebroker(nats_server.url, "sweep", "S", "w") == (0, nothing, "")
    code, _, err = await gamebroker(nats_server.url, "sweep", "S", "nobody")
    assert code == 1
    assert err.startswith("gamebroker: ")
    code, _, err = await gamebroker(nats_server.url, "sweep", "S", "--every", "0")
    assert code == 2
    assert "--every" in err


async def test_sweeping_again_and_again_finds_what_is_given_up_meanwhile(nats_server, stream_broker):
    sb = stream_broker
    await sb.declare(StreamOptions("S", ["s.>"]))
    await limited(sb)
    sweeping = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "broker.cli.main", "--url", nats_server.url, "sweep", "S", "--every", "0.2"),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert (await sweeping.stdout.readline()).startswith(b"written=0 ")
        await sb.enqueue("s.a", 1)
        await worn_out(sb, 1)
        while not (line := await sweeping.stdout.readline()).startswith(b"written=1 "):
            assert line.startswith(b"written=0 ")
    finally:
        sweeping.kill()
        await sweeping.communicate()


async def test_what_is_wrong_is_one_sentence_and_exit_code_one(nats_server):
    code, out, err = await gamebroker(nats_server.url, "enqueue", "nowhere", "1")
    assert (code, out) == (1, "")
    assert err.startswith("gamebroker: no stream captures 'nowhere'")
    assert "Traceback" not in err


async def test_what_the_server_advises_is_a_second_line(nats_server, stream_broker):
    await stream_broker.declare(StreamOptions("S", ["s.>"]))
    code, _, err = await gamebroker(nats_server.url, "declare", "OTHER", "s.a")
    assert code == 1
    assert "subjects overlap" in err.splitlines()[0]
    assert "streams.find(subject)" in err.splitlines()[1]
    assert "stream 'NOPE'" in (await gamebroker(nats_server.url, "consumers", "NOPE"))[2]


async def test_without_a_server_it_says_how_to_start_one(nats_server):
    code, _, err = await gamebroker("nats://127.0.0.1:1", "streams")
    assert code == 1
    assert "gamebroker server" in err
    assert (await gamebroker("nats://127.0.0.1:1", "streams", "--url", nats_server.url))[0] == 0


async def test_a_request_prints_its_reply(nats_server, broker):
    await broker.respond("echo", lambda msg: msg.data)
    assert await gamebroker(nats_server.url, "request", "echo", "hello") == (0, "hello\n", "")


async def test_subscribe_prints_what_is_published(nats_server, broker):
    listening = asyncio.create_task(gamebroker(nats_server.url, "subscribe", "a.*", "--count", "1"))
    while not listening.done():
        broker.publish_nowait("a.b", b"x")
        await asyncio.sleep(0.02)
    assert (await listening)[:2] == (0, "a.b x\n")
