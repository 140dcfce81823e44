"""What permissions do not close, shown on the shipped configuration, and what closes it where something does.

SECURITY.md tells each of these; whoever closes one finds its test failing here, and takes it out there.
"""

import json

import pytest

from broker import Broker, InvalidOption, StreamBroker
from broker.contracts.envelopes import Record
from broker.keys import wire_id
from broker.testing.waiting import eventually
from services.events import ALL_STREAMS
from tests.deployment import NATS, declare, single

pytestmark = [pytest.mark.nats, pytest.mark.timeout(60)]
OUT = "gateway.gateway-1.out.room-1.room-1-p1"


@pytest.fixture
async def server(secrets):
    async with single(secrets) as started:
        await declare(started, secrets)
        yield started


async def poisoned(sb, subject, key):
    """Use up the id that the key has on the subject, with a message of one's own on a subject one may publish to."""
    receipt = await sb._streams.append(Record("audit.leaderboard", b"{}", None, wire_id(subject, key)), timeout=5)
    assert receipt.stream == "AUDIT"


async def test_who_knows_a_key_can_have_anothers_message_dropped_unless_ids_are_keyed(server, secrets):
    """Ids are the stream's, not the subject's: two roles that may write into one stream can swallow each other's."""
    async with (
        secrets.connect(server, "leaderboard") as attacker,
        secrets.connect(server, "settlement") as plain,
        secrets.connect(server, "settlement", id_secret="known to settlement workers only") as keyed,
    ):
        await poisoned(attacker, "audit.settlement", "battle-1")
        assert (await plain.enqueue("audit.settlement", b"{}", idempotency_key="battle-1")).duplicate, "the limit"
        assert not (await keyed.enqueue("audit.settlement", b"{}", idempotency_key="battle-1")).duplicate
        assert (await keyed.enqueue("audit.settlement", b"{}", idempotency_key="battle-1")).duplicate


async def test_a_reply_goes_where_the_asker_says_even_where_the_asker_may_not_publish(server, secrets):
    """The server answers a publish into a stream on whatever reply subject it carries; the content is the server's."""
    async with secrets.connect(server, "room") as room, secrets.connect(server, "session-1") as player:
        seen = []
        await player.subscribe(OUT, seen.append)
        await room.publish(OUT, b"forged")
        await room.flush()
        room._backend.publish("battle.settle", b"{}", None, reply_to=OUT)
        await eventually(lambda: seen)
        assert json.loads(seen[0].data)["stream"] == "SETTLEMENTS"
        assert len(seen) == 1, "what it publishes there itself is denied"


async def test_a_worker_can_have_its_own_streams_messages_sent_elsewhere(server, secrets):
    """The same way with pulls: what is sent is a message that the worker was to get, and nothing of its own making."""
    async with (
        secrets.connect(server, "room") as room,
        secrets.connect(server, "settlement") as settlement,
        secrets.connect(server, "session-1") as player,
    ):
        seen = []
        await player.subscribe(OUT, seen.append)
        await room.enqueue("battle.settle", b'{"of":"a room"}')
        pull = "$JS.API.CONSUMER.MSG.NEXT.SETTLEMENTS.settle-worker"
        settlement._backend.publish(pull, b"1", None, reply_to=OUT)
        await eventually(lambda: seen)
        assert seen[0].data == b'{"of":"a room"}'


async def test_a_session_that_is_taken_out_of_the_file_is_disconnected(server, secrets):
    async with secrets.connect(server, "session-1") as player, secrets.connect(server, "room") as room:
        await player.flush()
        text = server.settings.text
        here = (NATS / "players.conf").read_text()
        assert here in text
        await server.reload(text.replace(here, "users: []\n"))
        await eventually(lambda: player.status == "unauthorized", 15)
        assert (await room.enqueue("battle.settle", b"{}")).stream == ALL_STREAMS[0].name, "the others go on"


async def test_a_broker_that_stores_nothing_takes_no_secret_for_ids():
    with pytest.raises(InvalidOption) as caught:
        Broker.connect("memory://", id_secret="sixteen bytes at least")
    assert "sixteen" not in str(caught.value)
    async with StreamBroker.connect("memory://", id_secret="sixteen bytes at least") as sb:
        assert "sixteen" not in repr(sb) + repr(vars(sb)) + repr(vars(sb._enqueuer))
