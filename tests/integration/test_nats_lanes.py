"""What only the real server does for lanes: its own partition(), its pins, and late settlements."""

import asyncio
from collections import Counter
from contextlib import asynccontextmanager, suppress

import pytest

from broker import ApiError, Entry, NoResponders, StreamBroker, StreamOptions
from broker.contracts.claims import Claim
from broker.contracts.lanes import Lane, key_token, lane_of
from broker.contracts.options import ConsumerOptions
from broker.lanes.membership import Membership
from broker.server import NatsServer
from broker.testing.conformance.scene import letters
from broker.testing.waiting import eventually, never

pytestmark = pytest.mark.nats

ODD = ["ann", "a.b.c", "Zoë", "日本語", "a b", "50%", "~x", "*", ">", "x" * 255, "é" * 100, "-", "_", "a/b?c=d&e"]


@pytest.fixture
async def sb(nats_server, link):
    async with StreamBroker.connect(nats_server.url, link=link) as connected:
        yield connected
        async for name in connected.streams.names():
            await connected.streams.delete(name)


def api(sb):
    return sb._streams._admin._api


async def stored_subject(sb, stream, sequence):
    answer = await api(sb).call(f"STREAM.MSG.GET.{stream}", {"seq": sequence}, stream=stream)
    return answer["message"]["subject"]


@pytest.mark.parametrize("lanes", [1, 7, 8, 100])
async def test_the_server_files_every_key_where_we_expect_it(sb, lanes):
    await sb.declare(StreamOptions("SETTLE", ["settle.battle"], lanes=lanes))
    keys = [*ODD, *(f"player.{number}" for number in range(150))]
    await sb.enqueue_many([Entry("settle.battle", key, ordering_key=key) for key in keys])
    for sequence, key in enumerate(keys, 1):
        filed = await stored_subject(sb, "SETTLE", sequence)
        assert filed == f"gamebroker.lane.0.{lane_of(key, lanes)}.{key_token(key)}.settle.battle"


async def test_publishers_in_other_languages_join_through_the_transform(sb):
    """They need no client of ours: a subject with the key in it, and a stream's ordinary acknowledgement."""
    await sb.declare(StreamOptions("SETTLE", ["settle.*"], lanes=4))
    seen = []
    await sb.consume("settle.battle", seen.append, queue="settlers", ordered=True)
    for turn in range(3):
        ack = await sb.request("gamebroker.keyed.player%2E7.settle.battle", {"turn": turn})
        assert ack.json()["stream"] == "SETTLE"
    await sb.enqueue("settle.battle", {"turn": 3}, ordering_key="player.7")
    await eventually(lambda: len(seen) == 4)
    assert [msg.json()["turn"] for msg in seen] == [0, 1, 2, 3]
    assert {(msg.subject, msg.ordering_key) for msg in seen} == {("settle.battle", "player.7")}


async def test_a_dead_letter_keeps_the_key_that_another_client_gave(sb):
    await sb.declare(StreamOptions("SETTLE", ["settle.*"], lanes=4))
    seen = []

    async def handle(msg):
        seen.append((msg.ordering_key, msg.json()))
        if len(seen) == 1:
            raise LookupError("no such battle")

    await sb.consume("settle.battle", handle, durable="w", max_deliver=1)
    await sb.request("gamebroker.keyed.player%2E7.settle.battle", 1)
    [letter] = await eventually(lambda: letters(sb))
    assert letter.ordering_key == "player.7"
    assert await sb.dead_letters.replay(letter) == 1
    await eventually(lambda: len(seen) == 2)
    assert seen == [("player.7", 1), ("player.7", 1)]


async def test_nothing_gets_past_the_lanes(sb):
    await sb.declare(StreamOptions("SETTLE", ["settle.battle"], lanes=4))
    with pytest.raises(NoResponders):
        await sb.request("settle.battle", 1)
    for laned in (4, None):
        with pytest.raises(ApiError) as caught:
            await sb.declare(StreamOptions(f"OTHER{laned}", ["settle.>"], lanes=laned))
        assert caught.value.err_code == 10065


async def test_a_subject_that_gets_lanes_is_found_again(sb):
    """A publisher that knew the stream without lanes, then with, then without."""
    for lanes in (None, 4, None):
        await sb.declare(StreamOptions("SETTLE", ["settle.battle"], lanes=lanes))
        for key in (None, "ann"):
            assert (await sb.enqueue("settle.battle", 1, ordering_key=key)).stream == "SETTLE"
        await sb.streams.delete("SETTLE")


@asynccontextmanager
async def guarded(tmp_path, publish, link, subscribe='["_INBOX.>"]'):
    config = f"""
        authorization {{ users: [
            {{ user: boss, password: p }}
            {{ user: room, password: p, permissions: {{ publish: {publish}, subscribe: {subscribe} }} }}
        ] }}"""
    login = {"user": "boss", "pass": "p"}
    async with (
        NatsServer(tmp_path / "store", config=config, login=login) as server,
        StreamBroker.connect(server.url, user="boss", password="p") as boss,
        StreamBroker.connect(server.url, user="room", password="p", link=link) as room,
    ):
        yield boss, room


async def test_a_role_that_may_not_ask_finds_the_lanes_by_trying(tmp_path, link):
    publish = '["settle.battle", "gamebroker.keyed.*.settle.battle"]'
    async with guarded(tmp_path, publish, link) as (boss, room):
        await boss.declare(StreamOptions("SETTLE", ["settle.battle"], lanes=4))
        assert (await room.enqueue("settle.battle", 1, ordering_key="ann")).sequence == 1
        assert (await room.enqueue("settle.battle", 2)).sequence == 2
        await boss.streams.delete("SETTLE")
        await boss.declare(StreamOptions("SETTLE", ["settle.battle"]))
        assert (await room.enqueue("settle.battle", 1, ordering_key="ann")).sequence == 1


BOUND = """[
    "$JS.API.STREAM.INFO.SETTLE", "$JS.API.CONSUMER.INFO.SETTLE.*", "$JS.API.STREAM.MSG.GET.SETTLE"
    "$JS.API.CONSUMER.MSG.NEXT.SETTLE.*", "$JS.ACK.SETTLE.>"
    "gamebroker.lanes.SETTLE.settlers", "gamebroker.parked.SETTLE.settlers.>", "gamebroker.again.SETTLE.settlers.>"
    "$JS.API.STREAM.INFO.GAMEBROKER_PARKED", "$JS.API.CONSUMER.*.GAMEBROKER_PARKED.>"
    "$JS.API.CONSUMER.MSG.NEXT.GAMEBROKER_PARKED.*", "$JS.ACK.GAMEBROKER_PARKED.>"
    "$JS.API.STREAM.MSG.*.GAMEBROKER_PARKED"
    "gamebroker.dead.SETTLE.settlers", "$JS.API.STREAM.MSG.GET.GAMEBROKER_DEAD_LETTERS"
]"""
"""What docs/concepts/ordering.md says a bound worker needs."""


@pytest.mark.timeout(60)
async def test_a_bound_worker_needs_no_more_than_the_docs_say(tmp_path, link):
    subscribe = '["_INBOX.>", "gamebroker.lanes.SETTLE.settlers"]'
    async with guarded(tmp_path, BOUND, link, subscribe) as (boss, settler):
        await boss.declare(StreamOptions("SETTLE", ["settle.battle"], lanes=2))
        made = await boss.consume("settle.battle", print, queue="settlers", ordered=True)
        await made.drain()
        seen, tries = [], []

        def handle(msg):
            tries.append(msg.json())
            if msg.json() == "poison" or tries.count(msg.json()) == 1:
                raise RuntimeError("not now")
            seen.append(msg.json())

        options = {"queue": "settlers", "ordered": True, "stream": "SETTLE", "ensure": "bind", "backoff": (0.05,)}
        await settler.consume("settle.battle", handle, max_deliver=2, **options)
        for body in ("first", "poison", "last"):
            await boss.enqueue("settle.battle", body, ordering_key="ann")

        async def the_letter():
            return [letter async for letter in boss.dead_letters.list()]

        [letter] = await eventually(the_letter, within=20)
        assert seen == ["first"]
        await boss.dead_letters.discard(letter)
        await eventually(lambda: seen == ["first", "last"], within=20)


def lane_consumer(**options):
    return ConsumerOptions(
        durable="settlers-0-0",
        queue="settlers",
        filters=["settle.battle"],
        stream="SETTLE",
        lane=Lane(0, 0),
        max_ack_pending=1,
        ack_wait=1.0,
        priority_groups=["lane"],
        priority_policy="pinned_client",
        priority_timeout=1.0,
        claim=Claim(group="lane"),
        **options,
    )


async def test_one_worker_is_pinned_and_the_next_one_has_not_to_wait(nats_server, sb, link):
    await sb.declare(StreamOptions("SETTLE", ["settle.battle"], lanes=1))
    async with StreamBroker.connect(nats_server.url, link=link) as other:
        first = await sb._streams.open_consumer(lane_consumer())
        for number in range(4):
            await sb.enqueue("settle.battle", number, ordering_key="ann")
        [one] = await first.fetch(10, timeout=5)
        second = await other._streams.open_consumer(lane_consumer())
        standing_by = asyncio.create_task(second.fetch(10, timeout=30))
        await first.ack([one])
        [two] = await first.fetch(10, timeout=5)
        await never(standing_by.done, during=0.3)
        await first.ack([two])
        await first.close()
        [three] = await asyncio.wait_for(standing_by, 10)
        assert [each.data for each in (one, two, three)] == [b"0", b"1", b"2"]
        await second.close()


async def test_a_late_ack_of_the_one_before_is_accepted(nats_server, sb, link):
    """The server does not fence: whoever held a message before may still settle it. So the handler must."""
    await sb.declare(StreamOptions("SETTLE", ["settle.battle"], lanes=1))
    async with StreamBroker.connect(nats_server.url, link=link) as other:
        stalled = await sb._streams.open_consumer(lane_consumer())
        for number in range(2):
            await sb.enqueue("settle.battle", number, ordering_key="ann")
        [held] = await stalled.fetch(10, timeout=5)
        second = await other._streams.open_consumer(lane_consumer())
        [again] = await second.fetch(10, timeout=20)
        assert (again.sequence, again.attempt) == (held.sequence, 2)
        await stalled.ack([held])
        [after] = await second.fetch(10, timeout=20)
        assert after.sequence == again.sequence + 1
        for source in (stalled, second):
            await source.close()


async def test_a_worker_goes_on_where_a_pin_lapsed(sb):
    """An idle lane loses its pin after a while; what comes then is handled all the same."""
    await sb.declare(StreamOptions("SETTLE", ["settle.battle"], lanes=2))
    seen = []
    await sb.consume("settle.battle", seen.append, queue="settlers", ordered=True)
    for number in range(3):
        await sb.enqueue("settle.battle", number, ordering_key="ann")
        await eventually(lambda number=number: len(seen) == number + 1)
        await asyncio.sleep(2.2)
    assert [msg.attempt for msg in seen] == [1, 1, 1]


async def test_a_queue_that_retries_leaves_nothing_for_readers(sb):
    await sb.declare(StreamOptions("SETTLE", ["settle.battle"], lanes=2))
    tries = []

    def handle(msg):
        tries.append(msg.attempt)
        if len(tries) < 3:
            raise RuntimeError("not now")

    await sb.consume("settle.battle", handle, queue="settlers", ordered=True, backoff=(0.05,))
    await sb.enqueue("settle.battle", 1, ordering_key="ann")
    await eventually(lambda: tries == [1, 2, 3])
    async with sb.read("settle.battle", until="end") as messages:
        assert [msg.json() async for msg in messages] == [1]


@pytest.mark.timeout(150)
async def test_the_order_does_not_depend_on_who_hears_whom(nats_server, sb, link, monkeypatch):
    """Two workers who each believe to be alone, and pins that are taken away again and again."""
    monkeypatch.setattr(Membership, "_hear", lambda _self, _envelope: None)
    await sb.declare(StreamOptions("SETTLE", ["settle.battle"], lanes=4))
    done, by, running, overlaps = [], Counter(), Counter(), []

    def worker(name):
        async def handle(msg):
            key, turn = msg.json()
            running[key] += 1
            if running[key] > 1:
                overlaps.append(key)
            await asyncio.sleep(0.002)
            running[key] -= 1
            if msg.attempt == 1 and msg.sequence % 7 == 0:
                raise RuntimeError("not now")
            done.append((key, turn))
            by[name] += 1

        return handle

    async def take_pins_away():
        while True:
            for lane in range(4):
                with suppress(ApiError):
                    await sb.consumers.unpin("SETTLE", f"settlers-0-{lane}", "lane")
            await asyncio.sleep(0.1)

    keys = [f"player-{number}" for number in range(12)]
    await sb.enqueue_many([Entry("settle.battle", [key, turn], ordering_key=key) for turn in range(40) for key in keys])
    async with StreamBroker.connect(nats_server.url, link=link) as other:
        for name, broker in (("first", sb), ("second", other)):
            await broker.consume("settle.battle", worker(name), queue="settlers", ordered=True, backoff=(0.05,))
        unpinning = asyncio.create_task(take_pins_away())
        await eventually(lambda: len(set(done)) == 480, within=100)
        unpinning.cancel()
        await asyncio.wait([unpinning])
    assert len(by) == 2
    assert overlaps == []
    firsts = list(dict.fromkeys(done))
    assert {key: [turn for each, turn in firsts if each == key] for key in keys} == {k: list(range(40)) for k in keys}
