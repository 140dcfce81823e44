"""What happens to calls in flight when the server dies, freezes, restarts or turns us away."""

import asyncio
import socket
from dataclasses import replace
from time import monotonic

import pytest
import pytest_asyncio

from broker.backends.nats import open_backend
from broker.contracts.envelopes import Record
from broker.contracts.errors import (
    BrokerClosed,
    ConnectError,
    ConnectionLost,
    ConsumerNotFound,
    NoResponders,
    PermissionDenied,
    Unauthorized,
)
from broker.contracts.options import ConnectOptions, ConsumerOptions, StreamOptions
from broker.contracts.status import Status
from broker.server import NatsServer
from broker.testing.waiting import eventually, never
from tests.door import door_to

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
async def server():
    async with NatsServer(sync_interval=None) as started:
        yield started
        if started.running:
            await started.thaw()


@pytest_asyncio.fixture
async def guarded():
    async with NatsServer(sync_interval=None, config=USERS.format(role="role"), login=LOGIN) as started:
        yield started


@pytest_asyncio.fixture
async def connect(link):
    opened = []

    async def connect(server, **options):
        opened.append(await open_backend(ConnectOptions(url=server.url, link=link, **options)))
        return opened[-1]

    yield connect
    for backend in opened:
        await backend.close()


def admin_of(server):
    return server.url.replace("nats://", "nats://admin:secret-of-admin@")


def record(number=0, subject="orders.new"):
    return Record(subject, b"%d" % number, None, f"id-{number}")


async def a_consumer(backend, **options):
    await backend.create_stream(StreamOptions("ORDERS", ["orders.>"]))
    return await backend.open_consumer(ConsumerOptions(durable="worker", filters=["orders.>"], **options))


async def fill(backend, count, first=0):
    await asyncio.gather(*(backend.append(record(n), timeout=5) for n in range(first, first + count)))


class TestServerKilled:
    async def test_an_append_in_flight_fails_at_once(self, server, connect):
        backend = await connect(server)
        await backend.create_stream(StreamOptions("ORDERS", ["orders.>"]))
        await server.freeze()
        append = backend.append(record(), timeout=15)
        await asyncio.sleep(0.05)
        began = monotonic()
        await server.kill()
        with pytest.raises(ConnectionLost):
            await append
        assert monotonic() - began < 5

    async def test_what_failed_is_not_sent_later(self, server, connect):
        backend = await connect(server)
        await backend.create_stream(StreamOptions("ORDERS", ["orders.>"]))
        await server.kill()
        await eventually(lambda: backend.board.status is Status.RECONNECTING)
        with pytest.raises(ConnectionLost):
            await backend.append(record(), timeout=5)
        await server.start()
        await eventually(lambda: backend.board.status is Status.CONNECTED)
        await fill(backend, 1, first=1)
        assert (await backend.stream_info("ORDERS")).messages == 1

    async def test_a_request_in_flight_fails_at_once(self, server, connect):
        asker, silent = await connect(server), await connect(server)
        await silent.subscribe("ask", lambda _: None, queue=None)
        request = asyncio.ensure_future(asker.request("ask", b"", None, timeout=15))
        await asyncio.sleep(0.05)
        began = monotonic()
        await server.kill()
        with pytest.raises(ConnectionLost):
            await request
        assert monotonic() - began < 5

    async def test_a_request_waits_for_the_connection(self, server, connect):
        backend = await connect(server)
        await server.kill()
        await eventually(lambda: backend.board.status is Status.RECONNECTING)
        request = asyncio.ensure_future(backend.request("nobody", b"", None, timeout=10))
        await asyncio.sleep(0.05)
        await server.start()
        with pytest.raises(NoResponders):
            await request

    async def test_subscriptions_come_back(self, server, connect):
        backend, seen = await connect(server), []
        interest = await backend.subscribe("room.*", seen.append, queue=None)
        dropped = await backend.subscribe("room.*", seen.append, queue=None)
        await server.kill()
        await eventually(lambda: backend.board.status is Status.RECONNECTING)
        await dropped.stop()
        await server.start()
        await eventually(lambda: backend.board.status is Status.CONNECTED)
        assert backend.stats.reconnects == 1
        backend.publish("room.1", b"x", None)
        await eventually(lambda: seen)
        assert len(seen) == 1
        await interest.stop()
        backend.publish("room.1", b"x", None)
        await backend.flush(timeout=2)
        assert len(seen) == 1

    async def test_core_messages_wait_for_the_connection(self, server, connect):
        backend, seen = await connect(server), []
        await backend.subscribe("room.*", seen.append, queue=None)
        await server.kill()
        await eventually(lambda: backend.board.status is Status.RECONNECTING)
        for number in range(10):
            backend.publish("room.1", b"%d" % number, None)
        await server.start()
        await eventually(lambda: len(seen) == 10)
        assert [each.data for each in seen] == [b"%d" % n for n in range(10)]
        assert backend.stats.dropped_outbound == 0

    async def test_a_fetch_goes_on_after_a_restart_on_the_same_store(self, server, connect):
        backend = await connect(server)
        source = await a_consumer(backend)
        fetching = asyncio.ensure_future(source.fetch(10, timeout=15))
        await asyncio.sleep(0.1)
        await server.kill()
        await server.start()
        await eventually(lambda: backend.board.status is Status.CONNECTED)
        began = monotonic()
        await fill(backend, 1)
        assert len(await fetching) == 1
        assert monotonic() - began < 5
        await source.close()

    async def test_a_consumer_deleted_meanwhile_is_noticed_after_the_reconnect(self, server, connect):
        other = await connect(server)
        async with door_to(server) as door:
            backend = await connect(door)
            source = await a_consumer(backend)
            fetching = asyncio.ensure_future(source.fetch(10, timeout=15))
            await asyncio.sleep(0.05)
            door.shut()
            await eventually(lambda: backend.board.status is Status.RECONNECTING)
            await other.delete_consumer("ORDERS", "worker")
            door.open = True
            with pytest.raises(ConsumerNotFound):
                await asyncio.wait_for(fetching, 10)
            await source.close()
            await backend.close()

    async def test_closing_while_there_is_no_server_takes_no_time(self, server, connect):
        backend = await connect(server)
        source = await a_consumer(backend)
        await server.kill()
        await eventually(lambda: backend.board.status is Status.RECONNECTING)
        began = monotonic()
        await source.close()
        await backend.close()
        assert monotonic() - began < 5
        assert backend.board.status is Status.CLOSED
        with pytest.raises(BrokerClosed):
            backend.publish("room.1", b"", None)

    async def test_closing_at_any_moment_of_the_search_leaves_nothing(self, server, connect):
        """Cancelling a connect in the moment it is refused must not start the search anew."""
        backends = [await connect(server) for _ in range(100)]
        await server.kill()
        await eventually(lambda: all(each.board.status is Status.RECONNECTING for each in backends))

        async def leave(backend, after):
            await asyncio.sleep(after)
            await backend.close()

        await asyncio.gather(*(leave(backend, number * 0.007) for number, backend in enumerate(backends)))


class TestServerFrozen:
    async def test_publishing_never_blocks_and_the_buffer_is_bounded(self, server, connect):
        limit = 1 << 20
        backend = await connect(server, outbound_limit=limit)
        await server.freeze()
        body, longest = b"x" * 1000, 0.0
        for _ in range(200):
            began = monotonic()
            for _ in range(100):
                backend.publish("room.1", body, None)
            longest = max(longest, monotonic() - began)
            await asyncio.sleep(0)
        assert longest < 2
        assert backend.congested
        assert backend._session.link._outbound.held <= limit
        assert backend.stats.dropped_outbound > 10_000

    async def test_traffic_resumes_with_the_newest(self, server, connect):
        backend, listener, seen = await connect(server, outbound_limit=100_000), await connect(server), []
        await listener.subscribe("room.*", seen.append, queue=None)
        await server.freeze()
        for number in range(20_000):
            backend.publish("room.1", b"%1000d" % number, None)
            if number % 500 == 0:
                await asyncio.sleep(0)
        await server.thaw()
        await eventually(lambda: seen and seen[-1].data.endswith(b" 19999"))
        assert len(seen) + backend.stats.dropped_outbound == 20_000
        assert not backend.congested

    async def test_writable_waits_until_it_thaws(self, server, connect):
        backend = await connect(server, outbound_limit=100_000)
        await server.freeze()
        for number in range(10_000):
            backend.publish("room.1", b"x" * 1000, None)
            if number % 500 == 0:
                await asyncio.sleep(0)
        waiting = asyncio.ensure_future(backend.writable())
        await never(waiting.done, during=0.1)
        await server.thaw()
        await asyncio.wait_for(waiting, 10)

    async def test_it_is_left_and_found_again(self, server, connect):
        backend = await connect(server)
        await server.freeze()
        append = backend.append(record(), timeout=15)
        backend.publish("room.1", b"x" * 500_000, None)
        began = monotonic()
        with pytest.raises(ConnectionLost):
            await append
        assert monotonic() - began < 13
        await server.thaw()
        await eventually(lambda: backend.board.status is Status.CONNECTED, within=8)

    async def test_close_takes_no_time(self, server, connect):
        backend = await connect(server)
        source = await a_consumer(backend)
        fetching = asyncio.ensure_future(source.fetch(10, timeout=15))
        await asyncio.sleep(0.05)
        await server.freeze()
        for _ in range(100):
            backend.publish("room.1", b"x" * 100_000, None)
            await asyncio.sleep(0)
        began = monotonic()
        await source.close()
        await backend.close()
        assert monotonic() - began < 8
        with pytest.raises(BrokerClosed):
            await fetching
        await server.thaw()


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
