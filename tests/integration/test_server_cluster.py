"""Three real servers that replicate."""

import asyncio
import socket
import sys
import time
from pathlib import Path

import nats
import pytest
import uvloop
from nats.js.api import StreamConfig

from broker.contracts.errors import InvalidOption
from broker.server import Cluster, ServerError

pytestmark = [pytest.mark.xdist_group("cluster"), pytest.mark.nats]

LIMITS = "max_payload: 65536\n"
NODE = """
# As a container would see it.
server_name: nats-{number}
listen: 0.0.0.0:4222
http: "0.0.0.0:8222"
client_advertise: "nats-{number}:4222"
include ./limits.conf
jetstream {{
  store_dir: "/data/nats-{number}"
  sync_interval: always
  max_file: 1GB
}}
cluster {{
  name: composed
  listen: 0.0.0.0:6222
  advertise: "nats-{number}:6222"
  authorization {{ user: route, password: secret }}
  routes: [nats-route://route:secret@nats-1:6222, nats-route://route:secret@nats-2:6222, nats-route://nats-3:6222]
}}
"""


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


async def replicated(url: str) -> nats.NATS:
    client = await nats.connect(url.split(","), max_reconnect_attempts=-1, reconnect_time_wait=0.1)
    await client.jetstream().add_stream(StreamConfig(name="THREE", subjects=["three"], num_replicas=3))
    return client


async def publish(client: nats.NATS, within: float = 12) -> int:
    """Returns the sequence; an election may be under way."""
    deadline = time.monotonic() + within
    while True:
        try:
            return (await client.jetstream().publish("three", b"x", timeout=1)).seq
        except nats.errors.Error:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)


async def test_three_nodes_replicate_soon_after_the_start():
    begun = time.perf_counter()
    async with Cluster(config="max_payload: 65536") as cluster:
        took = time.perf_counter() - begun
        sys.stdout.write(f"cluster started in {took:.2f} s\n")
        assert took < 15
        assert cluster.running
        assert cluster.url == ",".join(cluster.urls)
        assert len(set(cluster.urls)) == len({node.store_dir for node in cluster.nodes}) == 3
        pids = [node.pid for node in cluster.nodes]
        assert len(set(pids)) == 3
        client = await replicated(cluster.url)
        try:
            assert client.max_payload == 65536
            info = await client.jetstream().stream_info("THREE")
            assert len(info.cluster.replicas) == 2
            names = [stream.config.name for stream in await client.jetstream().streams_info()]
            assert names == ["THREE"]  # the probe is gone
        finally:
            await client.close()
        stores = [node.store_dir for node in cluster.nodes]
        await cluster.stop()
    assert not cluster.running
    assert not any(store.exists() for store in stores)


@pytest.mark.fault
async def test_two_of_three_go_on():
    async with Cluster() as cluster:
        client = await replicated(cluster.url)
        try:
            assert await publish(client) == 1
            await cluster.nodes[0].kill()
            assert not cluster.running
            await cluster.ready()  # the other two have noticed, and elected leaders where it was needed
            assert await publish(client) >= 2
        finally:
            await client.close()


@pytest.mark.fault
async def test_a_killed_node_comes_back():
    async with Cluster() as cluster:
        client = await replicated(cluster.url)
        try:
            assert await publish(client) == 1
            url = cluster.nodes[0].url
            await cluster.nodes[0].kill()
            await cluster.nodes[0].start()
            assert cluster.nodes[0].url == url
            await cluster.ready()
            assert cluster.running
            assert await publish(client) >= 2
        finally:
            await client.close()


@pytest.mark.fault
async def test_one_of_three_is_not_enough():
    async with Cluster() as cluster:
        await cluster.nodes[0].kill()
        await cluster.nodes[1].kill()
        with pytest.raises(ServerError, match="only 1 of 3 nodes run"):
            await cluster.ready(timeout=0.2)


async def test_a_rolling_restart_keeps_messages():
    async with Cluster() as cluster:
        client = await replicated(cluster.url)
        try:
            assert await publish(client) == 1
            before = [node.pid for node in cluster.nodes]
            begun = time.perf_counter()
            await cluster.rolling_restart()
            sys.stdout.write(f"rolling restart in {time.perf_counter() - begun:.2f} s\n")
            assert not set(before) & {node.pid for node in cluster.nodes}
            assert await publish(client) == 2
        finally:
            await client.close()


async def test_given_stores_outlive_the_cluster(tmp_path: Path):
    async with Cluster(store_dir=tmp_path) as cluster:
        client = await replicated(cluster.url)
        await publish(client)
        await client.close()
    assert names_in(tmp_path) == ["node-1", "node-2", "node-3"]
    async with Cluster(store_dir=tmp_path) as cluster, await nats.connect(cluster.urls) as client:
        assert (await client.jetstream().stream_info("THREE")).state.messages == 1


async def test_the_configurations_of_containers_start_on_loopback(tmp_path: Path):
    (tmp_path / "limits.conf").write_text(LIMITS)
    paths = [tmp_path / f"nats-{number}.conf" for number in (1, 2, 3)]
    for number, path in enumerate(paths, 1):
        path.write_text(NODE.format(number=number))
    written = [path.read_text() for path in paths]
    async with Cluster.from_configs(paths) as cluster:
        client = await replicated(cluster.urls[1])
        try:
            info = client._server_info
            assert info["server_name"] == "nats-2"
            assert info["cluster"] == "composed"
            assert set(info["connect_urls"]) == {url.removeprefix("nats://") for url in cluster.urls}
            assert client.max_payload == 65536
            stream = await client.jetstream().stream_info("THREE")
            assert len(stream.cluster.replicas) == 2
        finally:
            await client.close()
        for node in cluster.nodes:
            assert (node.store_dir / "jetstream").is_dir()
        await cluster.nodes[0].reload()
        with socket.socket() as other:
            other.bind(("127.0.0.2", cluster.nodes[0].port))  # loopback only, whatever the file listens on
    assert [path.read_text() for path in paths] == written


async def test_one_configuration_with_variables_serves_all(tmp_path: Path):
    (tmp_path / "limits.conf").write_text(LIMITS)
    path = tmp_path / "node.conf"
    path.write_text(NODE.format(number=1).replace("server_name: nats-1", "server_name: $NATS_NAME"))
    env = [{"NATS_NAME": f"nats-{number}"} for number in (1, 2, 3)]
    async with Cluster.from_configs([path] * 3, env=env) as cluster, await nats.connect(cluster.urls[2]) as client:
        assert client._server_info["server_name"] == "nats-3"


async def test_a_node_that_cannot_start_ends_the_others(monkeypatch, tmp_path: Path):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "limits.conf").write_text(LIMITS)
    paths = [tmp_path / f"nats-{number}.conf" for number in (1, 2, 3)]
    for number, path in enumerate(paths, 1):
        path.write_text(NODE.format(number=number))
    paths[2].write_text("nonsense: 1")
    cluster = Cluster.from_configs(paths)
    with pytest.raises(ServerError, match="nonsense"):
        await cluster.start()
    assert not any(node.running for node in cluster.nodes)
    assert names_in(tmp_path / "tmp") == []


async def test_a_cancelled_start_leaves_nothing(monkeypatch, tmp_path: Path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    cluster = Cluster()
    starting = asyncio.create_task(cluster.start())
    deadline = time.monotonic() + 5
    while not all(node.pid for node in cluster.nodes):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not any(node.running for node in cluster.nodes)
    assert names_in(tmp_path) == []


def test_uvloop_runs_a_cluster_too():
    async def run() -> None:
        async with Cluster() as cluster, await nats.connect(cluster.urls) as client:
            await client.flush()

    uvloop.run(run())


@pytest.mark.parametrize("size", [0, 1, 2, 4])
def test_a_cluster_has_a_majority(size):
    with pytest.raises(InvalidOption, match="odd number"):
        Cluster(size)


def test_each_file_has_its_variables(tmp_path: Path):
    with pytest.raises(InvalidOption, match="1 mappings for 3 files"):
        Cluster.from_configs([tmp_path / "a"] * 3, env=[{}])


@pytest.mark.fault
async def test_a_first_election_that_fails_is_held_again(monkeypatch):
    cluster = Cluster()
    wait, waits = cluster._wait_ready, []

    async def fail_once(deadline):
        waits.append(deadline)
        return "nobody won" if len(waits) == 1 else await wait(deadline)

    monkeypatch.setattr(cluster, "_wait_ready", fail_once)
    async with cluster:
        assert len(waits) >= 3
        await (await replicated(cluster.url)).close()


@pytest.mark.fault
async def test_a_killed_cluster_keeps_what_was_acknowledged():
    async with Cluster() as cluster:
        client = await replicated(cluster.url)
        await publish(client)
        await client.close()
        urls = cluster.urls
        await cluster.kill()
        assert not any(node.running for node in cluster.nodes)
        await cluster.start()
        assert cluster.urls == urls
        async with await nats.connect(cluster.urls) as client:
            assert (await client.jetstream().stream_info("THREE")).state.messages == 1
