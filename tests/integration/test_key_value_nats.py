"""Buckets on a real server: the same bytes as other clients, one round trip, large sets, broken lines, expiry."""

import asyncio
import logging
from contextlib import asynccontextmanager

import nats
import pytest
import pytest_asyncio
from nats.js.api import KeyValueConfig
from nats.js.errors import KeyDeletedError, KeyNotFoundError, KeyWrongLastSequenceError

from broker import BucketNotFound, KeyExists, Operation, SequenceConflict, StreamBroker, WriteUnknown
from broker.server import NatsServer
from broker.testing.conformance.scene import listed
from broker.testing.plugin import remove_streams
from broker.testing.waiting import eventually, never
from tests.door import door_to

pytestmark = [pytest.mark.nats, pytest.mark.timeout(60)]


@pytest.fixture(autouse=True)
def quiet():
    """Lost connections are what some of these tests make."""
    logging.getLogger("broker").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("broker").setLevel(logging.NOTSET)


@pytest_asyncio.fixture
async def sb(nats_server, link):
    async with StreamBroker.connect(nats_server.url, link=link) as connected:
        yield connected
    await remove_streams(nats_server.url)


@pytest_asyncio.fixture
async def theirs(nats_server):
    """Another client of the same server."""
    client = await nats.connect(nats_server.url)
    yield client
    await client.close()


async def filled(kv, number, prefix="key"):
    for start in range(0, number, 1000):
        keys = range(start, min(start + 1000, number))
        await asyncio.gather(*(kv.put(f"{prefix}.{each}", each, timeout=30) for each in keys))


async def raw_config(client, bucket):
    return (await client.jetstream().stream_info(f"KV_{bucket}")).config.as_dict()


# -- other clients ----------------------------------------------------------------------------------------------------


async def test_a_bucket_is_made_as_another_client_makes_it(sb, theirs):
    await sb.key_value("ours", history=5, ttl=60, max_bytes=1 << 20, marker_ttl=2)
    config = KeyValueConfig("theirs", history=5, ttl=60, max_bytes=1 << 20, limit_marker_ttl=2, direct=True)
    await theirs.jetstream().create_key_value(config)
    ours, their = await raw_config(theirs, "ours"), await raw_config(theirs, "theirs")
    assert (ours.pop("name"), their.pop("name")) == ("KV_ours", "KV_theirs")
    assert (ours.pop("subjects"), their.pop("subjects")) == (["$KV.ours.>"], ["$KV.theirs.>"])
    for config in (ours, their):
        config.pop("description", None)
    assert ours == their
    assert (await sb.buckets.info("theirs")).config.history == 5
    await sb.key_value("theirs", history=5, ttl=60, max_bytes=1 << 20, marker_ttl=2)


async def test_another_client_reads_what_we_write(sb, theirs):
    kv = await sb.key_value("b", marker_ttl=1)
    bucket = await theirs.jetstream().key_value("b")
    revision = await kv.put("room.1", {"n": 1})
    await kv.put("gone", b"x")
    await kv.delete("gone")
    await kv.put("purged", b"x")
    await kv.purge("purged")
    entry = await bucket.get("room.1")
    assert (entry.key, entry.value, entry.revision) == ("room.1", b'{"n":1}', revision)
    assert (await bucket.get("room.1", revision=revision)).value == b'{"n":1}'
    for key in ("gone", "purged"):
        with pytest.raises((KeyNotFoundError, KeyDeletedError)):
            await bucket.get(key)
    assert await bucket.keys() == ["room.1"]
    assert [each.operation for each in await bucket.history("gone")] == [None, "DEL"]
    assert [each.operation for each in await bucket.history("purged")] == ["PURGE"]
    with pytest.raises(KeyWrongLastSequenceError):
        await bucket.update("room.1", b"late", last=revision - 1)
    assert await bucket.create("gone", b"theirs") > revision
    assert (await kv.get("gone")).value == b"theirs"
    watcher = await bucket.watch("room.*")
    assert (await watcher.updates(timeout=5)).value == b'{"n":1}'
    assert await watcher.updates(timeout=5) is None
    await kv.put("room.2", b"new")
    assert (await watcher.updates(timeout=5)).value == b"new"
    await watcher.stop()


async def test_we_read_what_another_client_writes(sb, theirs):
    bucket = await theirs.jetstream().create_key_value(KeyValueConfig("b", history=5, limit_marker_ttl=1))
    kv = await sb.key_value("b", ensure="bind")
    async with kv.watch() as watch:
        assert watch.ready.is_set()
        first = await bucket.put("a", b"1")
        await bucket.delete("a")
        await bucket.put("p", b"2")
        told = [await anext(watch) for _ in range(3)]
        assert [(each.key, each.operation, each.value) for each in told] == [
            ("a", Operation.PUT, b"1"),
            ("a", Operation.DELETE, b""),
            ("p", Operation.PUT, b"2"),
        ]
        assert told[0].revision == first
        await bucket.purge("p")
        await bucket.create("lease", b"3", msg_ttl=1)
        told = [await anext(watch) for _ in range(3)]
        assert [(each.key, each.operation) for each in told] == [
            ("p", Operation.PURGE),
            ("lease", Operation.PUT),
            ("lease", Operation.EXPIRED),
        ]
    assert await kv.get("a") is None
    assert await kv.create("a", b"ours") > first
    assert (await bucket.get("a")).value == b"ours"
    with pytest.raises(KeyExists):
        await kv.create("a", b"again")


async def test_a_bucket_without_direct_get_is_read_all_the_same(sb, theirs):
    bucket = await theirs.jetstream().create_key_value(KeyValueConfig("b", direct=False))
    await bucket.put("a", b"1")
    kv = await sb.key_value("b", ensure="bind")
    assert (await kv.get("a")).value == b"1"
    assert await kv.get("b") is None


# -- round trips ------------------------------------------------------------------------------------------------------


async def test_a_get_is_one_request_and_a_write_is_one_append(sb, theirs):
    kv = await sb.key_value("b")
    asked, stored = [], []

    async def note_request(msg):
        asked.append(msg.subject)

    async def note_append(msg):
        stored.append((msg.subject, dict(msg.headers or {}).get("KV-Operation"), msg.data))

    await theirs.subscribe("$JS.API.>", cb=note_request)
    await theirs.subscribe("$KV.>", cb=note_append)
    await theirs.flush()

    async def heard():
        await sb.publish("$KV.probe.a", b"")
        return stored

    await eventually(heard)
    await sb.flush()
    await theirs.flush()
    await never(lambda: len(stored) > 100, during=0.1)
    stored.clear()
    revision = await kv.create("room.1", b"1")
    await kv.update("room.1", b"2", revision=revision)
    await kv.put("room.1", b"3")
    await kv.delete("room.1")
    await kv.purge("room.1")
    assert (await kv.get("room.1")) is None
    await eventually(lambda: asked and len(stored) >= 5)
    await never(lambda: len(asked) > 1 or len(stored) > 5)
    assert asked == ["$JS.API.DIRECT.GET.KV_b.$KV.b.room.1"]
    operations = ((None, b"1"), (None, b"2"), (None, b"3"), ("DEL", b""), ("PURGE", b""))
    assert stored == [("$KV.b.room.1", *each) for each in operations]


# -- large sets and broken lines --------------------------------------------------------------------------------------


async def test_the_initial_set_of_ten_thousand_keys_is_whole(sb):
    kv = await sb.key_value("large", storage="memory")
    await filled(kv, 10_000)
    await kv.put("key.0", "changed")
    seen = {}
    async with kv.watch() as watch:
        async for entry in watch:
            assert entry.key not in seen
            seen[entry.key] = entry.json()
            assert watch.ready.is_set() == (len(seen) == 10_000)
            if watch.ready.is_set():
                break
    assert seen == {"key.0": "changed", **{f"key.{each}": each for each in range(1, 10_000)}}
    assert len(set(await listed(kv.keys()))) == 10_000
    assert sorted(await listed(kv.keys("key.9", "key.17"))) == ["key.17", "key.9"]


@asynccontextmanager
async def behind_a_door(nats_server, link):
    """A broker whose connection can be cut, and the door."""
    async with door_to(nats_server) as door, StreamBroker.connect(door.url, link=link) as far:
        yield far, door


async def test_a_line_that_breaks_in_the_initial_set_leaves_no_hole_and_no_early_ready(sb, nats_server, link):
    kv = await sb.key_value("b", history=5, storage="memory")
    for _ in range(2):
        await filled(kv, 2_000)
    async with behind_a_door(nats_server, link) as (far, door):
        watching = await far.key_value("b", ensure="bind")
        seen = []
        async with watching.watch() as watch:
            async for entry in watch:
                seen.append(entry)
                assert watch.ready.is_set() == (len(seen) >= 2_001)
                if len(seen) in {300, 900, 1_500}:
                    door.shut()
                    await eventually(lambda: far.status == "reconnecting", within=15)
                    if len(seen) == 900:
                        await kv.put("new", "while you were away")
                    door.open = True
                if watch.ready.is_set():
                    break
        assert {each.key for each in seen} == {"new", *(f"key.{each}" for each in range(2_000))}
        assert [each.revision for each in seen] == list(range(2_001, 4_002))


async def test_it_goes_on_at_once_after_a_broken_line_with_all_that_happened(sb, nats_server, link):
    kv = await sb.key_value("b", history=64)
    await kv.put("a", 0)
    async with behind_a_door(nats_server, link) as (far, door):
        watching = await far.key_value("b", ensure="bind")
        seen = []

        async def follow(watch):
            async for entry in watch:
                seen.append(entry.json())

        async with watching.watch() as watch:
            following = asyncio.create_task(follow(watch))
            await eventually(lambda: seen == [0])
            for cut in range(3):
                door.shut()
                await eventually(lambda: far.status == "reconnecting", within=15)
                for number in range(10):
                    await kv.put("a", cut * 10 + number + 1)
                door.open = True
                await eventually(lambda cut=cut: far.stats.reconnects > cut, within=15)
                # Not after missed heartbeats, which would be ten seconds and more.
                await eventually(lambda cut=cut: len(seen) == cut * 10 + 11)
            following.cancel()
        assert seen == list(range(31))


async def test_whoever_was_away_for_longer_than_the_markers_lived_is_told_what_expired(sb, nats_server, link):
    kv = await sb.key_value("b", marker_ttl=1)
    for key in ("lease.a", "lease.b", "room"):
        await kv.put(key, 1)
    async with behind_a_door(nats_server, link) as (far, door):
        watching = await far.key_value("b", ensure="bind")
        async with watching.watch() as watch:
            assert {(await anext(watch)).key for _ in range(3)} == {"lease.a", "lease.b", "room"}
            waiting = asyncio.ensure_future(anext(watch))
            await asyncio.sleep(0)
            door.shut()
            await eventually(lambda: far.status == "reconnecting", within=15)
            await kv.delete("lease.a")
            await kv.create("lease.a", 2, ttl=1)
            await kv.purge("lease.b", ttl=1)

            async def gone():
                """Neither the values nor the words that they are gone; the last of those is the seventh entry."""
                written = (await sb.streams.info("KV_b")).state.last_sequence
                return written == 7 and not await kv.history("lease.a") + await kv.history("lease.b")

            await eventually(gone, within=20)
            await kv.put("room", 2)
            door.open = True
            told = [await asyncio.wait_for(waiting, 30)]
            told += [await asyncio.wait_for(anext(watch), 30) for _ in range(2)]
            assert {(each.key, each.operation) for each in told[:2]} == {
                ("lease.a", Operation.PURGE),
                ("lease.b", Operation.PURGE),
            }
            assert (told[2].key, told[2].json()) == ("room", 2)
            assert [each.revision for each in told] == sorted(each.revision for each in told)


async def test_a_bucket_made_anew_while_the_line_was_down_ends_the_watch(sb, nats_server, link):
    kv = await sb.key_value("b")
    for _ in range(5):
        await kv.put("a", 1)
    async with behind_a_door(nats_server, link) as (far, door):
        watching = await far.key_value("b", ensure="bind")
        async with watching.watch() as watch:
            assert (await anext(watch)).revision == 5
            waiting = asyncio.ensure_future(anext(watch))
            await never(waiting.done, during=0.1)
            door.shut()
            await eventually(lambda: far.status == "reconnecting", within=15)
            await sb.buckets.delete("b")
            await sb.key_value("b")
            await kv.put("a", 2)
            door.open = True
            with pytest.raises(BucketNotFound, match="made again"):
                await asyncio.wait_for(waiting, 20)


# -- what the server does ---------------------------------------------------------------------------------------------


async def test_the_server_lets_nothing_expire_sooner_than_its_marker(sb):
    """Why a shorter ``ttl`` is refused: it would silently be another one."""
    await sb.key_value("b", marker_ttl=3)
    unchecked = await sb.key_value("b", ensure="bind")
    await unchecked.put("a", b"1", ttl=1)

    async def gone():
        return await unchecked.get("a") is None

    await never(gone, during=2)
    await eventually(gone, within=15)


async def test_older_revisions_do_not_come_back_when_a_key_expires(sb):
    kv = await sb.key_value("b", marker_ttl=1)
    await kv.put("a", b"older")
    await kv.put("a", b"newer", ttl=1)
    assert [each.value for each in await kv.history("a")] == [b"newer"]
    await eventually(lambda: _operations(kv, "a", [Operation.EXPIRED]), within=15)
    await eventually(lambda: _operations(kv, "a", []), within=15)


async def _operations(kv, key, wanted):
    return [each.operation for each in await kv.history(key)] == wanted


async def test_a_frozen_server_makes_a_write_unknown_in_time(link, tmp_path):
    async with (
        NatsServer(tmp_path / "store") as server,
        StreamBroker.connect(server.url, link=link) as broker,
    ):
        kv = await broker.key_value("b")
        revision = await kv.put("a", b"1")
        await server.freeze()
        try:
            loop = asyncio.get_running_loop()
            began = loop.time()
            with pytest.raises(WriteUnknown, match="read the key") as caught:
                await kv.update("a", b"2", revision=revision, timeout=1)
            assert loop.time() - began < 10
            assert (caught.value.key, caught.value.revision) == ("a", revision)
        finally:
            await server.thaw()
        entry = await eventually(lambda: _answered(kv, "a"), within=20)
        assert (entry.value, entry.revision) in {(b"1", revision), (b"2", revision + 1)}
        with pytest.raises(SequenceConflict):
            await kv.update("a", b"3", revision=entry.revision + 5, timeout=10)


async def _answered(kv, key):
    try:
        return await kv.get(key)
    except Exception:  # noqa: BLE001 - whatever a thawing server makes of it, the deadline is the judge
        return None
