"""Who the server turns away, and what it forbids to whom it lets in."""

import asyncio
import socket
from dataclasses import replace
from time import monotonic

import pytest
import pytest_asyncio

from broker.backends.nats import open_backend
from broker.contracts.errors import (
    ConnectError,
    ConnectionLost,
    PermissionDenied,
    Unauthorized,
)
from broker.contracts.options import ConnectOptions, ConsumerOptions, StreamOptions
from broker.contracts.status import Status
from broker.server import NatsServer
from broker.testing.waiting import eventually
from tests.orders import a_consumer, fill, record

pytestmark = [pytest.mark.nats, pytest.mark.fault]

USERS = """
accounts {{ GAME {{
  jetstream: enabled
  users: [
    {{ user: admin, password: secret-of-admin }}
    {{ user: {role}, password: secret-of-role, permissions: {{
        publish: {{ allow: ["room.>", "$JS.API.CONSUMER.MSG.NEXT.ORDERS.worker", "$JS.ACK.ORDERS.worker.>"] }}
        subscribe: {{ allow: ["_INBOX.>", "room.>"] }} }} }}
  ] }} }}
"""
LOGIN = {"user": "admin", "pass": "secret-of-admin"}


@pytest_asyncio.fixture
async def guarded():
    async with NatsServer(sync_interval=None, config=USERS.format(role="role"), login=LOGIN) as started:
        yield started


def admin_of(server):
    return server.url.replace("nats://", "nats://admin:secret-of-admin@")


class TestTurnedAway:
    async def test_a_wrong_password_is_told_at_once_and_not_repeated(self, guarded, link):
        began = monotonic()
        with pytest.raises(Unauthorized) as caught:
            await open_backend(ConnectOptions(link=link, url=guarded.url, user="admin", password="wrong-secret"))
        assert monotonic() - began < 4
        assert "wrong-secret" not in f"{caught.value!r}{caught.value.__cause__!r}{caught.value.__context__!r}"

    async def test_credentials_in_the_url_work_and_stay_out_of_errors(self, guarded, link):
        with pytest.raises(Unauthorized) as caught:
            await open_backend(
                ConnectOptions(link=link, url=guarded.url.replace("nats://", "nats://admin:wrong-secret@"))
            )
        assert "wrong-secret" not in str(caught.value)
        backend = await open_backend(ConnectOptions(link=link, url=admin_of(guarded)))
        await backend.close()

    async def test_whoever_gives_no_credentials_is_told_where_they_go(self, guarded, link):
        with pytest.raises(Unauthorized) as caught:
            await open_backend(ConnectOptions(link=link, url=guarded.url))
        told = str(caught.value)
        assert f"{guarded.url} wants credentials (" in told
        assert "Authorization Violation" in told
        assert all(where in told for where in ("user=", "token=", "creds=", "NATS_URL", "NATS_USER", "NATS_CREDS"))

    async def test_servers_that_are_gone_are_named_without_our_credentials(self, guarded, link):
        url = f"{admin_of(guarded)},nats://admin:secret-of-admin@127.0.0.1:1"
        backend = await open_backend(ConnectOptions(link=link, url=url))
        await guarded.kill()
        gone = {guarded.url.removeprefix("nats://"), "127.0.0.1:1"}
        await eventually(lambda: all(f"{each}: " in backend._session.link.trouble for each in gone))
        with pytest.raises(ConnectionLost, match="still not connected after") as caught:
            await backend.flush(timeout=0.2)
        told = str(caught.value)
        assert all(f"{each}: " in told for each in gone)
        assert "refused" in told or "Connect call failed" in told
        assert "secret" not in told
        await backend.close()

    @pytest.mark.parametrize(
        "url", ["nats://127.0.0.1:1", "nats://no-such-host.invalid:4222", "nats://127.0.0.1:1,nats://127.0.0.1:2"]
    )
    async def test_nobody_there_is_a_connect_error_in_time(self, url, link):
        began = monotonic()
        with pytest.raises(ConnectError) as caught:
            await open_backend(ConnectOptions(link=link, url=url, connect_timeout=2))
        assert monotonic() - began < 6
        assert url.split(",", maxsplit=1)[0] in str(caught.value)
        assert not isinstance(caught.value, Unauthorized)

    async def test_a_server_that_says_nothing_is_a_connect_error_in_time(self, link):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            began = monotonic()
            with pytest.raises(ConnectError):
                await open_backend(
                    ConnectOptions(link=link, url=f"nats://127.0.0.1:{silent.getsockname()[1]}", connect_timeout=0.5)
                )
            assert monotonic() - began < 5

    async def test_tls_is_not_given_up_silently(self, server, link):
        with pytest.raises(ConnectError, match="TLS"):
            await open_backend(ConnectOptions(link=link, url=server.url.replace("nats://", "tls://")))

    async def test_a_user_removed_by_a_reload_ends_the_connection(self, guarded, connect):
        backend = await connect(guarded, user="role", password="secret-of-role")
        interest = await backend.subscribe("room.*", lambda _: None, queue=None)
        await guarded.reload(USERS.format(role="somebody-else"))
        await eventually(lambda: backend.board.status is Status.UNAUTHORIZED)
        with pytest.raises(Unauthorized):
            backend.publish("room.1", b"", None)
        with pytest.raises(Unauthorized):
            await backend.request("room.1", b"", None, timeout=1)
        await interest.stop()

    async def test_a_user_removed_while_we_were_away_ends_the_connection(self, guarded, connect):
        backend = await connect(guarded, user="role", password="secret-of-role")
        await guarded.kill()
        guarded.settings = replace(guarded.settings, text=USERS.format(role="somebody-else"))
        await guarded.start()
        await eventually(lambda: backend.board.status is Status.UNAUTHORIZED)


class TestForbidden:
    async def test_publishing_is_counted_and_costs_no_connection(self, guarded, connect):
        backend = await connect(guarded, user="role", password="secret-of-role")
        backend.publish("Secret.Room", b"", None)
        await eventually(lambda: backend.stats.protocol_errors == 1)
        await backend.flush(timeout=2)
        assert backend.board.status is Status.CONNECTED

    async def test_subscribing_names_the_subject_in_its_own_case(self, guarded, connect):
        backend = await connect(guarded, user="role", password="secret-of-role")
        with pytest.raises(PermissionDenied) as caught:
            await backend.subscribe("Secret.Room", lambda _: None, queue="Q")
        assert (caught.value.verb, caught.value.subject) == ("subscribe", "Secret.Room")

    async def test_a_request_fails_at_once(self, guarded, connect):
        backend = await connect(guarded, user="role", password="secret-of-role")
        began = monotonic()
        with pytest.raises(PermissionDenied) as caught:
            await backend.request("Secret.Room", b"", None, timeout=5)
        assert monotonic() - began < 2.5
        assert (caught.value.verb, caught.value.subject) == ("publish", "Secret.Room")

    async def test_an_append_fails_at_once(self, guarded, connect):
        backend = await connect(guarded, user="role", password="secret-of-role")
        with pytest.raises(PermissionDenied):
            await backend.append(record(subject="Orders.new"), timeout=5)

    async def test_an_inbox_nobody_may_read_fails_the_calls(self, guarded, connect):
        backend = await connect(guarded, user="role", password="secret-of-role", inbox_prefix="_OTHER")
        began = monotonic()
        for _ in range(2):
            with pytest.raises(PermissionDenied) as caught:
                await backend.request("room.1", b"", None, timeout=5)
            assert caught.value.verb == "subscribe"
        assert monotonic() - began < 4

    async def test_the_api_fails_at_once(self, guarded, connect):
        backend = await connect(guarded, user="role", password="secret-of-role")
        with pytest.raises(PermissionDenied):
            await backend.create_stream(StreamOptions("ORDERS", ["orders.>"]))

    async def test_a_bound_worker_needs_two_permissions_only(self, guarded, connect):
        admin = await connect(guarded, user="admin", password="secret-of-admin")
        await (await a_consumer(admin)).close()
        await fill(admin, 3)
        backend = await connect(guarded, user="role", password="secret-of-role")
        options = ConsumerOptions(durable="worker", stream="ORDERS", ensure="bind")
        source = await backend.open_consumer(options)
        deliveries = await source.fetch(10, timeout=2)
        await source.ack(deliveries)
        await source.close()
        assert backend.stats.protocol_errors == 0
        info = await admin.consumer_info("ORDERS", "worker")
        assert (len(deliveries), info.ack_pending, info.ack_floor) == (3, 0, 3)

    async def test_pulling_from_a_forbidden_consumer_is_told(self, guarded, connect):
        backend = await connect(guarded, user="role", password="secret-of-role")
        with pytest.raises(PermissionDenied):
            await backend.open_consumer(ConsumerOptions(durable="other", stream="ORDERS", ensure="bind"))


async def test_a_cancelled_connect_leaves_no_connection(server, link):
    before = asyncio.all_tasks()
    for turns in range(1, 25):
        connecting = asyncio.create_task(open_backend(ConnectOptions(url=server.url, link=link)))
        for _ in range(turns):
            await asyncio.sleep(0)
        connecting.cancel()
        await asyncio.wait([connecting])
        if not connecting.cancelled():
            await connecting.result().close()
    await eventually(lambda: asyncio.all_tasks() == before)
