"""The ways to connect besides a plain address: websocket, several servers, what is missing said in one sentence."""

import asyncio
import sys

import pytest

from broker import Broker, ConnectError
from broker.backends.nats import open_backend
from broker.contracts.options import ConnectOptions
from broker.contracts.status import Status
from broker.server import NatsServer
from broker.server.ports import free_ports
from broker.testing.waiting import eventually

pytestmark = pytest.mark.nats


@pytest.mark.filterwarnings("ignore:parameter 'timeout' of type 'float'")  # how nats-py calls aiohttp
async def test_a_websocket_carries_both_ways_and_outlives_a_restart():
    (port,) = free_ports(1, "127.0.0.1")
    config = f'websocket {{ listen: "127.0.0.1:{port}", no_tls: true }}'
    async with NatsServer(config=config) as server, Broker.connect(f"ws://127.0.0.1:{port}") as broker:
        seen = []
        await broker.subscribe("a.*", lambda msg: seen.append(msg.json()))
        await broker.publish("a.b", 1)
        await broker.respond("echo", lambda msg: msg.json())
        assert (await broker.request("echo", {"x": 1})).json() == {"x": 1}
        await eventually(lambda: seen == [1])
        await server.restart()
        await eventually(lambda: broker.stats.reconnects == 1)
        await broker.publish("a.b", 2)
        await eventually(lambda: seen == [1, 2])


@pytest.mark.filterwarnings("ignore:parameter 'timeout' of type 'float'")  # how nats-py calls aiohttp
@pytest.mark.parametrize("link", ["wire", "nats-py", None], ids=["wire", "nats-py", "websocket"])
async def test_what_is_asked_for_around_a_reconnect_is_asked_for_once_and_after_the_credentials(link):
    (port,) = free_ports(1, "127.0.0.1")
    config = (
        f'websocket {{ listen: "127.0.0.1:{port}", no_tls: true }}\n'
        "authorization { users: [ { user: ann, password: p } ] }"
    )
    async with NatsServer(config=config) as server:
        url = f"ws://127.0.0.1:{port}" if link is None else server.url
        backend = await open_backend(ConnectOptions(url=url, user="ann", password="p", link=link))
        connection, seen, patterns = backend._session.link, [], []

        def ask():
            pattern = f"a.{len(patterns)}"
            patterns.append(pattern)
            forgotten = connection.subscribe(pattern.encode(), None, lambda *_: seen.append("forgotten"))
            connection.subscribe(pattern.encode(), None, lambda subject, *_: seen.append(subject.decode()))
            connection.unsubscribe(forgotten)
            connection.forget(forgotten)

        ask()
        restarting = asyncio.create_task(server.restart())
        while not (restarting.done() and backend.stats.reconnects == 1):
            ask()
            await asyncio.sleep(0.002)
        ask()
        await backend.flush(timeout=10)
        for pattern in patterns:
            backend.publish(pattern, b"", None)
        await backend.flush(timeout=10)
        assert seen == patterns
        assert (backend.stats.reconnects, backend.stats.protocol_errors) == (1, 0)
        await backend.close()


@pytest.mark.filterwarnings("ignore:parameter 'timeout' of type 'float'")  # how nats-py calls aiohttp
async def test_without_a_websocket_nothing_is_left_in_its_queue_which_the_next_one_would_say_before_connect():
    (port,) = free_ports(1, "127.0.0.1")
    async with NatsServer(config=f'websocket {{ listen: "127.0.0.1:{port}", no_tls: true }}') as server:
        backend = await open_backend(ConnectOptions(url=f"ws://127.0.0.1:{port}"))
        await server.stop()
        await eventually(lambda: backend.board.status is Status.RECONNECTING, within=15)
        link = backend._session.link
        link.unsubscribe(link.subscribe(b"a", None, lambda *_: None))
        assert link._driver._transport._pending.empty()
        await backend.close()


async def test_the_first_server_that_answers_of_several_is_taken(nats_server):
    async with Broker.connect(f"nats://127.0.0.1:1,{nats_server.url}") as broker:
        await broker.flush()


@pytest.mark.parametrize("link", ["wire", "nats-py"])
@pytest.mark.parametrize("content", [None, "directory", "hello"])
async def test_credentials_that_are_none_are_refused_by_a_server_without_auth_too(nats_server, tmp_path, link, content):
    file = tmp_path / "ann.creds"
    if content == "directory":
        file.mkdir()
    elif content is not None:
        file.write_text(content)
    with pytest.raises(ConnectError, match=r"ann\.creds: (No such file|Is a directory|no seed)"):
        await Broker.connect(nats_server.url, creds=file, link=link)


@pytest.mark.parametrize(
    ("module", "options", "extra"),
    [
        ("aiohttp", {"url": "ws://127.0.0.1:1"}, "gamebroker[ws]"),
        ("nkeys", {"creds": "nobody.creds", "link": "wire"}, "gamebroker[nkeys]"),
        ("nkeys", {"creds": "nobody.creds", "link": "nats-py"}, "gamebroker[nkeys]"),
    ],
)
async def test_a_missing_extra_is_named(monkeypatch, nats_server, tmp_path, module, options, extra):
    monkeypatch.setitem(sys.modules, module, None)
    if module == "aiohttp":
        monkeypatch.setattr("nats.aio.transport.aiohttp", None)
    options = {"url": nats_server.url, **options}
    if "creds" in options:
        (tmp_path / "nobody.creds").write_text("no credentials")
        options["creds"] = str(tmp_path / "nobody.creds")
    url = options.pop("url")
    with pytest.raises(ConnectError, match="gamebroker") as caught:
        await Broker.connect(url, **options)
    assert extra in str(caught.value)
