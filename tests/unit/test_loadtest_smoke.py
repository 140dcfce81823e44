"""The benchmark end to end on a real server, in the smallest size."""

import asyncio
import json

import pytest

from broker.server import NatsServer
from loadtest import __main__ as command
from loadtest.bench_stream import ApiRefusal, BenchStream, delete_streams
from loadtest.counterpart import Counterpart
from loadtest.raw import RawConnection, pub

pytestmark = pytest.mark.nats


@pytest.mark.timeout(60)
def test_one_tiny_workload_end_to_end(tmp_path, capsys):
    written = tmp_path / "kept" / "bench.json"
    code = command.main(
        ["--workload", "append256", "--rounds", "1", "--count-scale", "0.01", "--json", str(written)],
    )
    told = json.loads(written.read_text())
    shown = capsys.readouterr().out
    assert [each["void"] for each in told["runs"]] == [""] * 6
    assert code == 0
    assert [row["ours"] for row in told["rows"]] == ["enqueue_many", "enqueue_many, own keys"]
    assert all(row["ratio"] > 0 for row in told["rows"])
    assert told["machine"]["nats_server"]
    assert "| append256 | enqueue_many |" in shown
    assert shown.count("warm-up") == 3


async def test_the_other_ends_count_flood_and_echo():
    async with NatsServer(sync_interval=None) as server:
        await asyncio.to_thread(counterparts, server.url)


def counterparts(url):
    shape = {"url": url, "count": 1200, "size": 16}
    with Counterpart("count", subject="n", **shape) as counter, RawConnection(url) as raw:
        raw.send(pub("n", b"x" * 16) * 1200)
        assert counter.counted() == 1200
    with Counterpart("count", subject="n", **shape) as counter, RawConnection(url) as raw:
        raw.send(pub("n", b"x" * 16) * 7)
        assert counter.counted() == 7  # after a quiet second
    with Counterpart("count", subject="n", **shape) as counter, Counterpart("flood", subject="n", **shape) as flood:
        flood.go()
        assert counter.counted() == 1200
    with Counterpart("echo", subject="n", **shape), RawConnection(url) as raw:
        assert raw.answer_to(lambda reply: pub("n", b"hello", reply)).data == b"hello"


async def test_a_stream_is_filled_checked_and_deleted():
    async with NatsServer(sync_interval=None) as server:
        await asyncio.to_thread(streams, server.url)


def streams(url):
    with BenchStream(url, name="ONE", subject="one") as stream:
        stream.fill(2345, b"x")
        assert stream.stored() == 2345
        with pytest.raises(ApiRefusal):
            stream.consumer("nobody")
    with pytest.raises(ApiRefusal):
        stream.stored()
    BenchStream(url, name="LEFT", subject="left").__enter__()
    delete_streams(url)
    delete_streams(url)
    with pytest.raises(ApiRefusal):
        BenchStream(url, name="LEFT", subject="left").stored()
