"""``gamebroker doctor`` as a person runs it, against real servers set up well and badly."""

import asyncio
import json
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from unittest.mock import patch

import pytest

from broker import RequestTimeout, StreamBroker, StreamOptions
from broker.backends.nats.examining import Facts, look_at_monitoring
from broker.cli.main import main
from broker.server import Cluster, NatsServer
from tests.deployment import Secrets, shipped_server

pytestmark = [pytest.mark.nats, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def shipped(secrets):
    """As it is deployed, with everything declared; it changes nothing there."""
    with shipped_server(secrets) as node:
        yield node


async def called(*arguments, env=None):
    """The command in this process, with a loop and an environment of its own: exit code and what it wrote."""
    environment = env or {name: value for name, value in os.environ.items() if not name.startswith("NATS_")}
    out, err = StringIO(), StringIO()
    with patch.dict(os.environ, environment, clear=True), redirect_stdout(out), redirect_stderr(err):
        code = await asyncio.to_thread(main, arguments)
    return code, out.getvalue(), err.getvalue()


async def doctor(*arguments, env=None):
    """Exit code, and what it found: level and sentence, by check."""
    return understood(*await called("doctor", "--json", *arguments, env=env))


def understood(code, out, err):
    assert "Traceback" not in err
    if code == 2:
        return 2, err
    told = json.loads(out)
    found = {}
    for each in told["findings"]:
        found.setdefault(each["check"], []).append((each["level"], each["says"], each["do"]))
    assert told["problems"] == sum(each["level"] == "problem" for each in told["findings"])
    assert all(each["do"].endswith((".", ").")) for each in told["findings"] if each["do"])
    return code, found


async def gamebroker(*arguments, env=None):
    """The command itself, as a process."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "broker.cli.main", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=env,
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


def levels(found, check):
    return {level for level, *_ in found[check]}


def said(found, check):
    return " | ".join(f"{says} {do}" for _, says, do in found[check])


def everything(found):
    return " | ".join(said(found, check) for check in found)


async def test_a_role_of_the_shipped_configuration_is_well(shipped, secrets):
    code, found = await doctor(
        *("--url", shipped.url, "--monitoring", shipped.monitoring_url),
        *("--stream", "SETTLEMENTS", "--durable", "settle-worker"),
        env=secrets.environment("settlement"),
    )
    assert code == 0, found
    assert "problem" not in {level for check in found for level in levels(found, check)}
    for check in ("version", "tls", "login", "clock", "durability", "max_payload"):
        assert levels(found, check) == {"ok"}, found[check]
    assert "connected as 'settlement' of account 'GAME'" in said(found, "login")
    permissions = said(found, "permissions")
    for what in ("taking messages: allowed", "settling messages: allowed", "writing dead letters: allowed"):
        assert what in permissions
    assert "declaring streams: not allowed" in permissions
    assert levels(found, "jetstream") == {"unknown"}, "this role may not ask, and the doctor says so"
    assert "the server has JetStream enabled" in said(found, "jetstream")
    assert "one server alone" in said(found, "cluster")


async def test_the_admin_sees_limits_and_streams(shipped, secrets):
    code, found = await doctor("--url", shipped.url, env=secrets.environment("admin"))
    assert code == 0, found
    assert levels(found, "limits") == {"ok"}
    assert "streams: 5 of 16 in use" in said(found, "limits")
    assert "stream SETTLEMENTS: 1 copy" in said(found, "replicas")
    assert found["durability"] == [
        (
            "unknown",
            "whether stored means on the disk cannot be known: a server tells it on its monitoring pages only",
            "Give --monitoring http://host:8222.",
        )
    ]


async def test_a_worker_without_the_right_to_its_consumer_is_a_problem(shipped, secrets):
    code, found = await doctor(
        *("--url", shipped.url, "--stream", "SETTLEMENTS", "--durable", "settle-worker"),
        env=secrets.environment("leaderboard"),
    )
    assert code == 1
    problems = [says for level, says, _ in found["permissions"] if level == "problem"]
    assert [each.split(":")[0] for each in problems] == ["taking messages", "settling messages", "writing dead letters"]


async def test_another_roles_inbox_prefix_is_a_problem(shipped, secrets):
    code, found = await doctor(
        "--url", shipped.url, "--inbox-prefix", "_INBOX_admin", env=secrets.environment("settlement")
    )
    assert code == 1
    assert "problem" in levels(found, "permissions")
    assert "subscribe _INBOX_admin.>" in said(found, "permissions")
    assert "connect(inbox_prefix=)" in said(found, "permissions")


async def test_a_wrong_password_is_a_problem_and_not_shown(shipped, secrets):
    code, found = await doctor("--url", shipped.url, env=secrets.environment("room", NATS_PASSWORD="Wr0ng-Secret"))
    assert code == 1
    assert levels(found, "login") == {"problem"}
    assert "NATS_PASSWORD" in said(found, "login")
    assert "Wr0ng-Secret" not in everything(found)
    url = shipped.url.replace("nats://", "nats://room:Wr0ng-Secret@")
    code, found = await doctor("--url", url, "--ca", str(secrets.ca))
    assert (code, levels(found, "login")) == (1, {"problem"})
    assert "Wr0ng-Secret" not in everything(found)


async def test_a_server_nobody_vouches_for_is_a_problem(shipped, secrets, tmp_path):
    stranger = Secrets.make(tmp_path / "other")
    told = await gamebroker(
        *("doctor", "--json", "--url", shipped.url), env=secrets.environment("room", NATS_CA=str(stranger.ca))
    )
    assert told[2] == "", "nothing but its findings, although two lines broke off"
    code, found = understood(*told)
    assert code == 1
    assert levels(found, "tls") == {"problem"}
    assert "TLS failed" in said(found, "tls")
    assert "--ca" in said(found, "tls")


@pytest.mark.parametrize("first", [True, False])
async def test_a_server_that_shakes_hands_first_is_seen_when_one_says_so(secrets, first):
    files = f'cert_file: "{secrets.directory / "node.pem"}", key_file: "{secrets.directory / "node.key"}"'
    async with NatsServer(config=f"tls {{ {files} }}") as server:
        await server.reload(f"tls {{ {files}, handshake_first: true }}")
        code, found = await doctor("--url", server.url, "--ca", str(secrets.ca), *["--tls-first"] * first)
    if first:
        assert code == 0
        assert levels(found, "tls") == levels(found, "version") == {"ok"}
    else:
        assert code == 1
        assert "--tls-first" in said(found, "server")


async def test_a_server_for_development_is_warned_of(nats_server):
    code, found = await doctor("--url", nats_server.url)
    assert code == 0
    for check, words in (
        ("tls", "in the clear"),
        ("login", "asks nobody who they are"),
        ("cluster", "one server alone"),
    ):
        assert levels(found, check) == {"warning"}
        assert words in said(found, check)
    assert levels(found, "clock") == levels(found, "version") == {"ok"}


@pytest.mark.parametrize("missing", ["stream", "durable"])
async def test_a_worker_with_nothing_to_work_on_is_a_problem(nats_server, missing):
    async with StreamBroker.connect(nats_server.url) as sb:
        await sb.declare(StreamOptions("WORKED", ["worked"]))
    named = ("--stream", "WORKED" if missing == "durable" else "NOPE", "--durable", "nope")
    code, found = await doctor("--url", nats_server.url, *(named if missing == "durable" else named[:2]))
    assert (code, levels(found, "worker")) == (1, {"problem"})
    assert ("nope" if missing == "durable" else "NOPE") in said(found, "worker")


async def test_stored_that_is_not_on_the_disk_is_a_problem():
    async with NatsServer(sync_interval=None, monitoring=True) as server:
        code, found = await doctor("--url", server.url, "--monitoring", server.monitoring_url)
    assert code == 1
    assert levels(found, "durability") == {"problem"}
    assert "syncs every 120 s" in said(found, "durability")
    assert "sync_interval: always" in said(found, "durability")


async def test_monitoring_that_does_not_answer_is_said():
    async with NatsServer() as server:
        code, found = await doctor("--url", server.url, "--monitoring", "http://127.0.0.1:1")
    assert code == 0
    assert levels(found, "durability") == {"unknown"}
    assert "127.0.0.1:1: " in said(found, "durability")


async def test_another_servers_page_is_not_taken_for_this_ones():
    async with NatsServer(monitoring=True) as other, NatsServer(sync_interval=None) as server:
        code, found = await doctor("--url", server.url, "--monitoring", other.monitoring_url)
    assert code == 0
    assert levels(found, "durability") == {"unknown"}
    assert "not the monitoring page of the server" in said(found, "durability")


@pytest.mark.parametrize(
    "url", ["http://ann:s3cret/word@127.0.0.1:1", "http://ann:s3cretword/@127.0.0.1:1", "http://[::1"]
)
async def test_a_malformed_page_is_said_without_its_password(url):
    facts = Facts()
    await look_at_monitoring(facts, url)
    assert facts.unknown["monitoring"]
    assert not facts.kept.told
    assert "s3cret" not in facts.unknown["monitoring"] + facts.kept.why


async def test_an_account_without_jetstream_is_a_problem():
    users = "accounts { A { users: [{ user: a, password: a }] } }"
    async with NatsServer(config=users, login={"user": "a", "pass": "a"}) as server:
        code, found = await doctor("--url", server.url.replace("nats://", "nats://a:a@"))
    assert code == 1
    assert levels(found, "jetstream") == {"problem"}
    assert "jetstream: enabled" in said(found, "jetstream")
    assert any(level == "warning" and "everything in its account" in says for level, says, _ in found["permissions"])


@pytest.mark.parametrize(("size", "level"), [(850_000, "warning"), (1_010_000, "problem")])
async def test_an_account_that_is_nearly_full_is_told(size, level):
    users = "accounts { A { jetstream { max_file: 1MB }, users: [{ user: a, password: a }] } }"
    async with NatsServer(config=users, login={"user": "a", "pass": "a"}) as server:
        async with StreamBroker.connect(server.url, user="a", password="a") as sb:
            await sb.declare(StreamOptions("S", ["s"]))
            for _ in range(10):
                await sb.enqueue("s", b"x" * (size // 10))
        code, found = await doctor("--url", server.url.replace("nats://", "nats://a:a@"))
    assert code == (level == "problem")
    assert [each for each, says, _ in found["limits"] if says.startswith("disk")] == [level]


async def test_a_server_that_takes_only_small_messages_is_warned_of():
    async with NatsServer(max_payload=4096) as server:
        code, found = await doctor("--url", server.url)
    assert code == 0
    assert levels(found, "max_payload") == {"warning"}
    assert "4096 bytes" in said(found, "max_payload")


@pytest.mark.fault
@pytest.mark.timeout(180)
@pytest.mark.xdist_group("cluster")
async def test_a_cluster_tells_its_size_its_copies_and_who_is_away():
    async with Cluster() as cluster:
        async with StreamBroker.connect(cluster.url) as sb:
            await sb.declare(StreamOptions("ONE", ["one"]), StreamOptions("THREE", ["three"], replicas=3))
        [keeper] = [node for node in cluster.nodes if any(node.store_dir.rglob("streams/ONE"))]
        pages = next(node.monitoring_url for node in cluster.nodes if node is not keeper)
        code, found = await doctor("--url", cluster.url, "--monitoring", pages)
        assert code == 0, found
        assert "a cluster of 3" in said(found, "cluster")
        assert levels(found, "durability") == {"unknown"}, "one node's page says nothing of the others"
        every = [node.monitoring_url for node in cluster.nodes]
        for some, level in ((every[:2], "unknown"), (every[:1] * 3, "unknown"), (every, "ok")):
            _, there = await doctor("--url", cluster.url, "--monitoring", ",".join(some))
            assert levels(there, "durability") == {level}
        assert ("ok", "stream THREE: 3 copies", "") in found["replicas"]
        assert any(level == "warning" and "stream ONE has 1 copy" in says for level, says, _ in found["replicas"])
        await keeper.kill()
        deadline, away, listed = (
            asyncio.get_running_loop().time() + 60,
            ("is away or behind", "ONE does not answer"),
            None,
        )
        while listed != ({"THREE"}, {"ONE", "THREE"}) or not all(words in said(found, "replicas") for words in away):
            assert asyncio.get_running_loop().time() < deadline, found
            (code, found), listed = await asyncio.gather(
                doctor("--url", cluster.url, "--monitoring", pages), all_streams(cluster)
            )
        assert code == 1
        assert levels(found, "server") == {"warning"}, "one of three addresses has nobody there"


async def all_streams(cluster):
    """Those that are described, and those that are named; nothing of either while a leader is chosen."""
    async with StreamBroker.connect(cluster.url) as sb:
        try:
            return {info.name async for info in sb.streams.list()}, {name async for name in sb.streams.names()}
        except RequestTimeout:
            return set(), set()


@pytest.mark.parametrize("url", ["memory://x", "nats://host:port", "http://127.0.0.1"])
async def test_a_question_that_makes_no_sense_is_one_sentence(url):
    code, told = await doctor("--url", url)
    assert code == 2
    assert len(told.splitlines()) == 1


async def test_it_speaks_in_lines_too(nats_server):
    code, out, err = await gamebroker("--url", nats_server.url, "doctor")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert all(line.split()[0] in {"ok", "warning", "problem", "unknown"} for line in lines[:-1])
    assert lines[-1].startswith("0 problems, ")


# -- the other verbs connect with the same options


async def test_every_verb_works_under_a_role(shipped, secrets, tmp_path):
    admin = secrets.environment("admin", NATS_URL=shipped.url)
    code, out, err = await called("streams", env=admin)
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()][-1] == "SETTLEMENTS"
    given = tmp_path / "password"
    given.write_text(admin.pop("NATS_PASSWORD") + "\n")
    assert (await called("--password-file", str(given), "consumers", "MAIL", env=admin))[0] == 0
    code, _, err = await called("streams", env=secrets.environment("room", NATS_URL=shipped.url))
    assert code == 1
    assert "not permitted to publish on '$JS.API.STREAM.LIST'" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("option", ["--password-file", "--ca"])
async def test_a_file_that_is_not_there_is_one_sentence(tmp_path, option):
    missing = str(tmp_path / "missing")
    for verb in ("streams", "doctor"):
        code, _, err = await called("--user", "ann", option, missing, verb)
        assert code == {"streams": 1, "doctor": 2}[verb]
        assert len(err.splitlines()) == 1
        assert "No such file" in err
        assert missing in err
