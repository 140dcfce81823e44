"""What somebody who was let in would try beyond plain publishing: headers, raw protocol, floods of a session."""

import asyncio
import json
from contextlib import AsyncExitStack

import pytest

from broker import ApiError, ConnectError, PermissionDenied, Unsupported
from broker.contracts.headers import Headers
from broker.lanes.records import when_made
from broker.server import NatsServer, without_store_dir
from broker.server.config import read_config
from broker.testing.waiting import eventually
from tests.deployment import NATS, shipped_server
from tests.integration.test_permissions import stored

pytestmark = [pytest.mark.nats, pytest.mark.timeout(60), pytest.mark.xdist_group("shipped")]
IN, COMMAND = "gateway.gateway-1.in.room-1.room-1-p1", "battle.room-1.cmd.room-1-p1"


@pytest.fixture(scope="module")
def server(secrets):
    with shipped_server(secrets) as node:
        yield node


# -- letters that say that they are another's


@pytest.mark.parametrize(
    ("stream", "consumer", "refusal"),
    [("SETTLEMENTS", "settle-worker", "was not written by"), ("MAIL", "mail-worker", "does not take 'battle.settle'")],
)
async def test_a_forged_dead_letter_is_put_nowhere(server, secrets, stream, consumer, refusal):
    """The mail worker may write its own letters, and whoever replays them may store anything anywhere."""
    forged = {"Subject": "battle.settle", "Stream": stream, "Consumer": consumer, "Sequence": "7", "Reason": "bad"}
    async with secrets.connect(server, "mail") as mail, secrets.connect(server, "admin") as admin:
        headers = Headers([(f"Gamebroker-Dead-{name}", value) for name, value in forged.items()])
        mail._backend.publish("gamebroker.dead.MAIL.mail-worker", b'{"winner":"mallory"}', headers)
        (letter,) = await eventually(lambda: forgeries(admin))
        before = (await admin.streams.info("SETTLEMENTS")).state.last_sequence
        with pytest.raises(Unsupported, match=refusal):
            await admin.dead_letters.replay(letter)
        if stream == "SETTLEMENTS":
            assert await admin.dead_letters.replay(subject="battle.settle") == 0
            assert await forgeries(admin, consumer="settle-worker") == []
        assert (await admin.streams.info("SETTLEMENTS")).state.last_sequence == before
        assert await admin.dead_letters.discard(letter)


async def test_a_forged_lane_costs_whoever_replays_nothing(server, secrets):
    """Its key would become a part of a subject, and a blank in a subject has the server hang up."""
    async with secrets.connect(server, "mail") as mail, secrets.connect(server, "admin") as admin:
        made = when_made(await mail.streams.info("MAIL"))
        told = {
            "Subject": "mail.ann",
            "Stream": "MAIL",
            "Consumer": "mail-worker",
            "Sequence": "7",
            "Stream-Made": made,
        }
        for key in ("a b", "a\tb", "*", ">", "a.b", ""):
            headers = Headers([(f"Gamebroker-Dead-{k}", str(v)) for k, v in {**told, "Lane-Key": key}.items()])
            mail._backend.publish("gamebroker.dead.MAIL.mail-worker", b"mallory", headers)

        async def there():
            return len(await forgeries(admin)) == 6

        await eventually(there)
        for letter in await forgeries(admin):
            with pytest.raises(Unsupported, match="was not written by"):
                await admin.dead_letters.replay(letter)
            assert await admin.dead_letters.discard(letter)
        assert admin.stats.reconnects == 0


async def forgeries(sb, **filters):
    return [letter async for letter in sb.dead_letters.list(**filters) if b"mallory" in letter.data]


# -- headers that tell the server to do something


TRICKS = {
    "remove all before it": (10111, {"Nats-Rollup": "all"}),
    "remove all before it on the subject": (10111, {"Nats-Rollup": "sub"}),
    "come later, again and again": (10188, {"Nats-Schedule": "@every 1s", "Nats-Schedule-Target": "battle.settle"}),
    "count": (10168, {"Nats-Incr": "1"}),
    "belong to another stream": (10060, {"Nats-Expected-Stream": "AUDIT"}),
}


@pytest.mark.parametrize("trick", TRICKS)
async def test_a_header_cannot_do_what_its_sender_may_not(server, secrets, trick):
    code, headers = TRICKS[trick]
    async with secrets.connect(server, "room") as room, secrets.connect(server, "admin") as admin:
        await admin.enqueue("battle.settle", b"1")
        before, answers = await stored(admin), []
        await room.subscribe("_INBOX_room.answer", answers.append)
        room._backend.publish("battle.settle", b"2", Headers(tuple(headers.items())), reply_to="_INBOX_room.answer")
        await eventually(lambda: answers)
        assert json.loads(answers[0].data)["error"]["err_code"] == code
        assert await stored(admin) == before


async def test_an_audit_record_ends_neither_by_itself_nor_alone(server, secrets):
    async with secrets.connect(server, "leaderboard") as writer, secrets.connect(server, "admin") as admin:
        answers = []
        await writer.subscribe("_INBOX_leaderboard.answer", answers.append)
        short = Headers((("Nats-TTL", "1s"),))
        writer._backend.publish("audit.leaderboard", b"1", short, reply_to="_INBOX_leaderboard.answer")
        await eventually(lambda: answers)
        assert json.loads(answers[0].data)["error"]["err_code"] == 10166
        receipt = await writer.enqueue("audit.leaderboard", b"2")
        for no_erase in (False, True):
            with pytest.raises(ApiError):
                await admin.streams.delete_message("AUDIT", receipt.sequence, no_erase=no_erase)
        assert (await admin.streams.get_message("AUDIT", receipt.sequence)).data == b"2"


# -- a session that speaks for itself


async def opened(server, secrets=None):
    reader, writer = await asyncio.open_connection("127.0.0.1", server.settings.port)
    assert (await reader.readline()).startswith(b"INFO ")
    if secrets is not None:
        await writer.start_tls(secrets.tls(), server_hostname="localhost")
    return reader, writer


def hello(secrets, user):
    told = {"user": user, "pass": secrets.password(user), "verbose": False, "headers": True, "protocol": 1}
    return b"CONNECT %s\r\nPING\r\n" % json.dumps(told).encode()


async def everything(reader):
    """All that is said until the server hangs up, or has answered the last PING."""
    said = b""
    async with asyncio.timeout(20):
        while not said.endswith(b"PONG\r\n") and (line := await reader.readline()):
            if line == b"PING\r\n" or line.startswith(b"INFO "):
                continue
            said += line
    return said


SAID = {
    "listen in a group": b"SUB _INBOX_gateway.> everybody 1\r\n",
    "listen in everybody's group": b"SUB battle.*.cmd.* room 1\r\n",
    "send to a pattern": b"PUB battle.*.cmd.room-1-p1 2\r\n{}\r\n",
    "send to everything": b"PUB > 2\r\n{}\r\n",
    "send with headers": b"HPUB battle.settle 12 14\r\nNATS/1.0\r\n\r\n{}\r\n",
    "send in the place of the room": b"PUB battle.room-1.state 2\r\n{}\r\n",
    "have the server answer": b"PUB $JS.API.STREAM.NAMES gateway.gateway-1.out.room-1.room-1-p1 0\r\n\r\n",
}


@pytest.mark.parametrize("trick", SAID)
async def test_the_server_denies_it_whatever_the_client_is(server, secrets, trick):
    reader, writer = await opened(server, secrets)
    writer.write(hello(secrets, "session-1"))
    assert await everything(reader) == b"PONG\r\n"
    writer.write(SAID[trick] + b"PING\r\n")
    assert b"-ERR 'Permissions Violation" in await everything(reader)
    writer.transport.abort()


async def test_nobody_logs_in_in_the_clear(server, secrets):
    reader, writer = await opened(server)
    writer.write(hello(secrets, "admin"))
    try:
        assert b"PONG" not in await everything(reader)
    except ConnectionError:
        pass
    finally:
        writer.transport.abort()


async def test_however_many_sessions_there_are_a_service_finds_a_connection(secrets):
    """The players' account takes fewer connections than the node; both are scaled down here."""
    few = without_store_dir(read_config(NATS / "single.conf"))
    for shipped, scaled in ("18000", "3"), ("20000", "5"):
        assert few.count(f"max_connections: {shipped}") == 1
        few = few.replace(f"max_connections: {shipped}", f"max_connections: {scaled}")
    node = NatsServer(config=few)
    node.env = secrets.variables
    async with node, AsyncExitStack() as sessions:
        for _ in range(3):
            await sessions.enter_async_context(secrets.connect(node, "session-1"))
        with pytest.raises(ConnectError, match="maximum"):
            await sessions.enter_async_context(secrets.connect(node, "session-1", connect_timeout=5))
        async with secrets.connect(node, "settlement") as service:
            await service.flush()


async def test_a_sessions_messages_are_small_and_its_subscriptions_few(server, secrets):
    reader, writer = await opened(server, secrets)
    writer.write(hello(secrets, "session-1"))
    assert await everything(reader) == b"PONG\r\n"
    writer.write(b"PUB %s 5000\r\n%s\r\nPING\r\n" % (COMMAND.encode(), b"x" * 5000))
    assert b"Maximum Payload Violation" in await everything(reader)
    writer.transport.abort()
    async with secrets.connect(server, "session-1") as player:
        for _ in range(8):
            await player.subscribe("battle.room-1.state", print)
        with pytest.raises(PermissionDenied, match="maximum subscriptions"):
            await player.subscribe("battle.room-1.state", print)
        assert player.status == "connected"
