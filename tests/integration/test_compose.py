"""docker-compose.yml without an engine: its structure, every server configuration it mounts, and the cluster itself."""

import asyncio
import os
import re
import signal
import ssl
import subprocess
import sys

import pytest
import yaml

from broker import StreamOptions
from broker.server import Cluster, find_nats_server
from tests.deployment import TOP, Secrets

COMPOSE = yaml.safe_load((TOP / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES = COMPOSE["services"]
NODES = {name: service for name, service in SERVICES.items() if service.get("image", "").startswith("nats:")}
OURS = ("game_room", "gateway", "settlement", "leaderboard", "mail", "audit")
DECLARES = "declare"

pytestmark = pytest.mark.nats


def of_a_cluster(test):
    return pytest.mark.xdist_group("cluster")(pytest.mark.timeout(90)(test))


def mounts(service):
    """(source, target) of each mount."""
    return [tuple(mount.split(":")[:2]) for mount in service.get("volumes", ())]


def files_mounted(service):
    return [(TOP / source, target) for source, target in mounts(service) if source.startswith((".", "/"))]


def volumes_mounted(service):
    return [(source, target) for source, target in mounts(service) if not source.startswith((".", "/"))]


def nats_config(service):
    """The file on disk that the node is told to read."""
    command = service["command"]
    inside = command[command.index("--config") + 1]
    [(path, target)] = [each for each in files_mounted(service) if inside.startswith(each[1])]
    return path / inside.removeprefix(f"{target}/")


def told(service, secrets):
    """A container's variables, with the passwords that a person keeps in .env and the paths of this run's files."""
    filled = {}
    for name, value in service["environment"].items():
        variable = re.fullmatch(r"\$\{(\w+):\?.*\}", value)
        filled[name] = secrets.passwords[variable[1]] if variable else value
        if value.startswith("/run/secrets/"):
            filled[name] = str(secrets.directory / value.removeprefix("/run/secrets/"))
    return filled


def test_the_product_is_there():
    assert len(NODES) == 3
    assert SERVICES.keys() > set(OURS)
    assert "collector" in SERVICES


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_pinned(name):
    image = SERVICES[name]["image"]
    tag = image.partition(":")[2]
    assert re.match(r"\d+\.\d+\.\d+", tag), f"{image} may be another image tomorrow"


def test_what_is_mounted_exists():
    for service in SERVICES.values():
        for path, target in files_mounted(service):
            assert path.exists(), path
            assert target.startswith("/")
        for volume, _ in volumes_mounted(service):
            assert volume in COMPOSE["volumes"]


def test_every_volume_is_used():
    used = {volume for service in SERVICES.values() for volume, _ in volumes_mounted(service)}
    assert used == set(COMPOSE["volumes"])


def test_nothing_is_published_beyond_loopback():
    published = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)
    on_the_host = [port.split(":")[1] for port in published]
    assert len(on_the_host) == len(set(on_the_host))


def test_services_wait_for_healthy_nodes():
    for service in SERVICES.values():
        assert set(service.get("depends_on", {})) <= SERVICES.keys()
    waits = SERVICES[DECLARES]["depends_on"]
    assert waits.keys() == NODES.keys()
    assert {each["condition"] for each in waits.values()} == {"service_healthy"}
    for name in OURS:
        assert SERVICES[name]["depends_on"] == {DECLARES: {"condition": "service_completed_successfully"}}
    assert all(node["healthcheck"]["test"] for node in NODES.values())


def test_every_node_stores_on_a_volume_of_its_own():
    data = [[volume for volume, target in volumes_mounted(node) if target == "/data"] for node in NODES.values()]
    assert all(len(volumes) == 1 for volumes in data)
    assert len({volumes[0] for volumes in data}) == len(NODES)
    for node in NODES.values():
        text = nats_config(node).read_text(encoding="utf-8")
        assert re.search(r'store_dir:\s*"/data"', text)
        assert re.search(r"sync_interval:\s*always", text)


def test_the_nodes_know_each_other():
    names = {node["environment"]["NATS_NAME"] for node in NODES.values()}
    assert names == NODES.keys()
    for node in NODES.values():
        routes = re.findall(r"nats://([\w-]+):6222", nats_config(node).read_text(encoding="utf-8"))
        assert set(routes) == names


@pytest.mark.parametrize("name", [*OURS, DECLARES])
def test_a_service_runs_its_module_against_all_nodes(name):
    service = SERVICES[name]
    assert service["command"][:3] == ["python", "-m", f"services.{name}"]
    assert (TOP / "services" / name / "__main__.py").is_file() or (TOP / "services" / f"{name}.py").is_file()
    assert (TOP / service["build"]["dockerfile"]).is_file()
    urls = service["environment"]["NATS_URL"].split(",")
    assert urls == [f"tls://{node}:4222" for node in NODES]


@pytest.mark.parametrize("name", [*OURS, DECLARES])
def test_a_services_options_exist(name):
    """The same arguments, parsed by the service itself; ``--help`` behind them ends it before it connects."""
    command = SERVICES[name]["command"]
    told = subprocess.run(
        [sys.executable, *command[1:], "--help"], cwd=TOP, capture_output=True, text=True, timeout=15, check=False
    )
    assert told.returncode == 0, told.stderr
    for option in (argument for argument in command[3:] if argument.startswith("--")):
        assert option in told.stdout


@pytest.mark.parametrize("name", [*OURS, DECLARES])
def test_what_a_service_is_told_it_listens_to(name):
    """A variable that nobody reads is a promise that nobody keeps."""
    sources = [
        path.read_text(encoding="utf-8") for room in ("services", "broker") for path in (TOP / room).rglob("*.py")
    ]
    environment = SERVICES[name]["environment"]
    for variable in environment:
        assert variable.startswith("OTEL_") or any(f'"{variable}"' in text for text in sources), variable
    assert any("export_from_environment(" in text for text in sources if "from broker.telemetry import" in text)


def test_the_image_is_built_from_locked_packages_and_runs_without_root():
    text = (TOP / "deploy/Dockerfile").read_text(encoding="utf-8")
    assert "--require-hashes" in text
    assert re.search(r"^USER (?!root|0)", text, re.MULTILINE)
    for base in re.findall(r"^FROM (\S+)", text, re.MULTILINE):
        assert base == "python:3.12-slim"
    for line in re.findall(r"^COPY (?!--)(.+) \S+$", text, re.MULTILINE):
        for source in line.split():
            assert (TOP / source).exists(), source
            assert f"!{source}" in (TOP / "deploy/Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()


def test_the_collector_only_names_what_it_defines():
    config = yaml.safe_load((TOP / "deploy/otel/collector.yaml").read_text(encoding="utf-8"))
    pipelines = config["service"]["pipelines"]
    assert pipelines.keys() == {"traces", "metrics"}
    for pipeline in pipelines.values():
        for kind in ("receivers", "processors", "exporters"):
            assert pipeline[kind]
            assert set(pipeline[kind]) <= config[kind].keys()
    port = config["receivers"]["otlp"]["protocols"]["http"]["endpoint"].rpartition(":")[2]
    for name in OURS:
        assert SERVICES[name]["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"] == f"http://collector:{port}"


def accepted(config, variables):
    """What nats-server says of a file; "" when it takes it."""
    done = subprocess.run(
        [str(find_nats_server().path), "-t", "-c", str(config)],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
    )
    return done.stderr if done.returncode else ""


@pytest.mark.parametrize("name", NODES)
def test_nats_server_accepts_what_is_mounted(name, secrets):
    node = NODES[name]
    assert accepted(nats_config(node), told(node, secrets)) == ""


WHOLE = sorted(path for path in TOP.rglob("*.conf") if ".venv" not in path.parts and "server_name" in path.read_text())
PARTS = sorted(path for path in TOP.rglob("*.conf") if ".venv" not in path.parts and path not in WHOLE)


@pytest.mark.parametrize("config", WHOLE, ids=lambda path: path.name)
def test_nats_server_accepts_every_configuration_file(config, secrets):
    """And refuses it when a password is missing: none is ever empty."""
    assert accepted(config, secrets.variables) == ""
    needed = sorted(
        {name for part in (config, *PARTS) for name in re.findall(r"\$([A-Z][A-Z_0-9]+)", part.read_text())}
    )
    for name in set(needed) & secrets.passwords.keys():
        assert name in accepted(config, {each: value for each, value in secrets.variables.items() if each != name})


def test_every_part_of_a_configuration_is_in_all_of_them():
    assert len(WHOLE) == 2
    for config in WHOLE:
        assert set(re.findall(r'^include "(.+)"', config.read_text(), re.MULTILINE)) == {
            path.name for path in PARTS if path.name != "players.conf"
        }


def test_no_secret_is_in_the_repository():
    """A password is a variable, a key is a file that git ignores."""
    for config in (*WHOLE, *PARTS):
        assert re.findall(r"pass(?:word)?:\s*(?!\$)\S+", config.read_text()) == []
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            assert not re.search("PASSWORD|SECRET", name) or value.startswith("${"), name
    ignored = (TOP / ".gitignore").read_text().splitlines()
    assert {".env", "deploy/nats/secrets/"} <= set(ignored)
    for secret in COMPOSE["secrets"].values():
        assert secret["file"].startswith("./deploy/nats/secrets/")


def test_the_image_has_the_version_that_is_tested():
    assert {node["image"].split(":")[1] for node in NODES.values()} == {f"{find_nats_server().version}-alpine"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, secrets):
    """The three nodes as the file describes them, on loopback instead of in containers."""
    nodes = NODES.values()
    configs, variables = [nats_config(node) for node in nodes], [told(node, secrets) for node in nodes]
    started = Cluster.from_configs(configs, env=variables, store_dir=tmp_path_factory.mktemp("nats"))
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:  # it outlives every test's loop
        runner.run(started.start())
        yield started
        runner.run(started.stop())


@of_a_cluster
async def test_the_cluster_stores_on_three_nodes(cluster, secrets):
    async with secrets.connect(cluster, "admin") as sb:
        await sb.declare(StreamOptions("ORDERS", ["mail.*"], replicas=3, max_bytes=1 << 20))
        receipt = await sb.enqueue("mail.ann", b"one", idempotency_key="order-1")
        again = await sb.enqueue("mail.ann", b"one", idempotency_key="order-1")
        info = await sb.streams.info("ORDERS")
        stored = [list(node.store_dir.rglob("ORDERS/msgs/*.blk")) for node in cluster.nodes]
        await sb.streams.delete("ORDERS")
    assert (receipt.sequence, receipt.duplicate, again.duplicate) == (1, False, True)
    assert (info.config.replicas, info.messages) == (3, 1)
    assert all(stored), "every node holds the message"


@of_a_cluster
async def test_the_services_run_on_it_and_end_when_asked(cluster, secrets, tmp_path):
    """Command and variables are those of the file; only addresses and paths are this machine's."""
    declaring = await start_service(DECLARES, cluster.url, secrets, tmp_path)
    said, _ = await asyncio.wait_for(declaring.communicate(), 25)
    assert (declaring.returncode, said.split()[0]) == (0, b"declared:")
    processes = {name: await start_service(name, cluster.url, secrets, tmp_path) for name in OURS}
    try:
        for name, process in processes.items():
            said = await asyncio.wait_for(process.stdout.readline(), 20)
            assert said.startswith(f"{name} ready".encode()), said
        async with secrets.connect(cluster, "admin") as sb:
            declared = [info.config async for info in sb.streams.list()]
        assert {each.name for each in declared} >= {"SETTLEMENTS", "LEADERBOARD"}
        assert {each.replicas for each in declared} == {3}
        for process in processes.values():
            process.send_signal(signal.SIGTERM)
        codes = await asyncio.gather(*(asyncio.wait_for(process.wait(), 25) for process in processes.values()))
        assert codes == [0] * len(OURS)
    finally:
        for process in processes.values():
            if process.returncode is None:
                process.kill()
                await process.wait()


async def start_service(name, url, secrets, tmp_path):
    service = SERVICES[name]
    variables = {key: value for key, value in told(service, secrets).items() if not key.startswith("OTEL_EXPORTER")}
    arguments = [argument.replace("/data/", f"{tmp_path}/") for argument in service["command"][1:]]
    return await asyncio.create_subprocess_exec(
        sys.executable, *arguments, cwd=TOP, env={**os.environ, **variables, "NATS_URL": url}, stdout=subprocess.PIPE
    )


@of_a_cluster
async def test_a_node_is_who_holds_a_certificate_of_our_authority(cluster, secrets, tmp_path):
    """Whoever reaches the routes' port with another's certificate, or none, is not told a word."""
    theirs = Secrets.make(tmp_path / "theirs")
    port = cluster.nodes[0].settings.peering.port
    assert (await first_words(port, secrets, secrets)).startswith(b"INFO ")
    for own in (theirs, None):
        assert await first_words(port, secrets, own) == b""


async def first_words(port, trusted, own):
    """What a node says to another one that shows its own certificate."""
    context = trusted.tls()
    if own is not None:
        context.load_cert_chain(own.directory / "node.pem", own.directory / "node.key")
    async with asyncio.timeout(20):
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
            try:
                return await reader.readline()
            finally:
                writer.transport.abort()
        except (ssl.SSLError, ConnectionError):  # in TLS 1.3 the refusal may come after the handshake
            return b""
