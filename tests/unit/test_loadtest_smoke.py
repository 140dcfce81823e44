"""The benchmark end to end on a real server, in the smallest size."""

import asyncio
import json

import pytest

from broker.server import NatsServer
from loadtest import __main__ as command
from loadtest.bench_stream import ApiRefusal, BenchStream, delete_streams
from loadtest.counterpart import Counterpart
from loadtest.homes import Environment
from loadtest.lineup import Peer, turnout
from loadtest.raw import RawConnection, pub
from loadtest.runs import run_peer
from loadtest.workloads import WORKLOADS, Entrant, Workload

pytestmark = pytest.mark.nats

OWN = ("natspy", "gamebroker", "rawsocket")
CROWDED = Workload(
    name="crowded", count=1, rooms=30_000, entrants=(Entrant(peer="natspy", variant="latency", shown="publish"),)
)
"""900,000 messages a second: more than any sender here can send."""


SMALL = [workload for workload in WORKLOADS if workload.size == 128]


@pytest.mark.timeout(400)
def test_every_workload_end_to_end_in_tiny(tmp_path, capsys):
    written = tmp_path / "kept" / "bench.json"
    chosen = ["--only", *(workload.name for workload in SMALL), "--peers", *OWN]
    code = command.main([*chosen, "--rounds", "1", "--count-scale", "0.01", "--json", str(written)])
    told = json.loads(written.read_text())
    shown = capsys.readouterr().out
    # On a busy machine the sender of an open loop may lag: then it must be said. Nothing else may void a run.
    void = [each["void"] for each in told["runs"] if each["void"]]
    assert all(each.startswith("the sender lagged ") for each in void)
    assert code == int(bool(void))
    ran = {(row["workload"], row["peer"], row["shown"]) for row in told["rows"]}
    assert ran == {(each.name, who.peer, who.shown) for each in SMALL for who in each.entrants if who.peer in OWN}
    assert all(row["figure"]["median"] > 0 for row in told["rows"] if not row["void"])
    assert told["machine"]["nats_server"]
    assert told["clients"]["nodejs"]["missing"] == "left out with --peers"
    assert "- natsrpy: missing, left out with --peers" in shown
    assert shown.count("] warm-up ") == sum(each.peer in OWN for each in SMALL[0].entrants)
    assert written.with_suffix(".svg").read_text().startswith("<svg")
    assert "| append256 | gamebroker | enqueue_many |" in written.with_suffix(".md").read_text()


@pytest.mark.timeout(60)
async def test_a_sender_that_lags_voids_the_run():
    async with NatsServer(sync_interval=None) as server:
        entrant = next(each for each in CROWDED.entrants if each.peer == "natspy")
        run = await run_peer(entrant, CROWDED, url=server.url, count=20_000, turn=1, limit=50.0)
    assert "the sender lagged " in run.void
    assert run.latency is not None
    assert run.latency.lag_ms > 2.0


@pytest.mark.timeout(180)
def test_a_client_that_cannot_be_installed_is_missing_for_a_reason(tmp_path):
    (tmp_path / "gone.lock").write_text(f"nothing @ file://{tmp_path}/nothing-1.0-py3-none-any.whl --hash=sha256:00\n")
    gone = Environment("gone", (3, 11), place=tmp_path, locks=tmp_path)
    here = turnout((), [Peer(name="gone", shown="gone", home=gone, used="")])
    assert here[0].missing.startswith("python: ERROR: ")


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
