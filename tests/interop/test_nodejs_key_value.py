"""One bucket, two clients: what nats.js writes we read, and back; who wins; what each is told as it happens."""

import asyncio

import pytest

from broker import ConfigDrift, FeatureDisabled, KeyExists, Operation, SequenceConflict
from broker.testing.conformance.scene import listed
from broker.testing.waiting import eventually
from tests.interop.nodejs import Refused, packed, unpacked

pytestmark = [pytest.mark.xdist_group("nodejs"), pytest.mark.nats, pytest.mark.timeout(300)]


@pytest.fixture
def at_theirs(theirs):
    """Verbs on their end of the bucket."""

    async def call(verb, key=None, value=None, **given):
        if value is not None:
            given["value"] = packed(value)
        told = await theirs(verb, bucket="b", key=key, **given)
        return told if verb != "get" or told is None else {**told, "value": unpacked(told["value"])}

    return call


@pytest.fixture
def kv(sb, theirs):
    """Ours, and theirs opened on it."""

    async def opened(**options):
        bucket = await sb.key_value("b", **options)
        await theirs("open", bucket="b")
        return bucket

    return opened


async def told_there(theirs, number, count):
    """What their watcher was told, once it is so many."""

    async def enough():
        told = await theirs("taken", number=number)
        return told if len(told) >= count else None

    told = await eventually(enough, within=20)
    return [(each["key"], each["operation"], unpacked(each["value"])) for each in told]


# -- reading and writing ----------------------------------------------------------------------------------------------


async def test_what_we_put_they_get_and_back(kv, at_theirs):
    ours = await kv()
    first = await ours.put("room.1", b"\0\xff")
    there = await at_theirs("get", "room.1")
    assert (there["value"], there["revision"], there["operation"]) == (b"\0\xff", first, "PUT")
    second = await at_theirs("put", "room.1", b"theirs")
    entry = await ours.get("room.1")
    assert (entry.value, entry.revision, second) == (b"theirs", second, first + 1)
    assert (await at_theirs("get", "room.1", options={"revision": first}))["value"] == b"\0\xff"
    assert (await ours.get("room.1", revision=first)).value == b"\0\xff"
    assert await at_theirs("get", "room.2") is None


async def test_keys_of_every_kind_and_a_body_in_our_codec_are_theirs_too(kv, at_theirs):
    ours = await kv()
    names = ["a", "A.b.C", "under_score", "dash-ed", "sla/sh", "equals=", "0.1.2"]
    for name in names:
        await ours.put(name, {"name": name})
    assert sorted(await at_theirs("keys")) == sorted(names)
    assert sorted(await at_theirs("keys", filter="A.>")) == ["A.b.C"]
    assert (await at_theirs("get", "A.b.C"))["value"] == b'{"name":"A.b.C"}'
    for name in names:
        await at_theirs("put", name, b'{"name":"again"}')
    assert (await ours.get("sla/sh")).json() == {"name": "again"}
    assert sorted(await listed(ours.keys())) == sorted(names)


async def test_only_one_side_creates_a_key(kv, at_theirs):
    ours = await kv()
    await ours.create("lease", b"ours")
    with pytest.raises(Refused, match="wrong last sequence"):
        await at_theirs("create", "lease", b"theirs")
    await ours.delete("lease")
    await at_theirs("create", "lease", b"theirs")
    with pytest.raises(KeyExists):
        await ours.create("lease", b"ours")
    await at_theirs("purge", "lease")
    await ours.create("lease", b"ours again")
    assert (await at_theirs("get", "lease"))["value"] == b"ours again"


async def test_an_update_follows_on_the_other_sides_revision_or_is_refused(kv, at_theirs):
    ours = await kv()
    first = await ours.put("a", b"0")
    second = await at_theirs("update", "a", b"1", revision=first)
    with pytest.raises(SequenceConflict):
        await ours.update("a", b"2", revision=first)
    third = await ours.update("a", b"2", revision=second)
    with pytest.raises(Refused, match="wrong last sequence"):
        await at_theirs("update", "a", b"3", revision=second)
    assert (await at_theirs("get", "a"))["revision"] == third


async def test_a_counter_both_sides_add_to_misses_nothing(kv, at_theirs):
    ours = await kv(history=1)
    await ours.put("n", b"0")

    async def add_there():
        added = 0
        while added < 20:
            entry = await at_theirs("get", "n")
            try:
                await at_theirs("update", "n", b"%d" % (int(entry["value"]) + 1), revision=entry["revision"])
            except Refused:
                continue
            added += 1

    async def add_here():
        for _ in range(20):
            await ours.modify("n", lambda entry: entry.json() + 1, timeout=60)

    await asyncio.gather(add_there(), add_here())
    assert (await ours.get("n")).json() == 40


async def test_what_one_side_deletes_or_purges_is_gone_for_the_other(kv, at_theirs):
    ours = await kv(history=5)
    for number in range(3):
        await ours.put("a", number)
    await at_theirs("delete", "a")
    assert await ours.get("a") is None
    history = await ours.history("a")
    assert [each.operation for each in history] == [*[Operation.PUT] * 3, Operation.DELETE]
    await at_theirs("purge", "a")
    assert [each.operation for each in await ours.history("a")] == [Operation.PURGE]

    for number in range(3):
        await at_theirs("put", "b", b"%d" % number)
    await ours.delete("b")
    assert [each["operation"] for each in await at_theirs("history", "b")] == ["PUT"] * 3 + ["DEL"]
    assert (await at_theirs("get", "b"))["operation"] == "DEL"
    assert await at_theirs("keys") == []
    await ours.purge("b")
    assert [each["operation"] for each in await at_theirs("history", "b")] == ["PURGE"]


async def test_a_deletion_of_theirs_may_name_a_revision_of_ours(kv, at_theirs):
    ours = await kv()
    first = await ours.put("a", b"0")
    second = await ours.put("a", b"1")
    with pytest.raises(Refused, match="wrong last sequence"):
        await at_theirs("delete", "a", options={"previousSeq": first})
    await at_theirs("delete", "a", options={"previousSeq": second})
    assert await ours.get("a") is None


# -- watching ---------------------------------------------------------------------------------------------------------


async def test_their_watcher_is_told_what_we_do(kv, theirs):
    ours = await kv(marker_ttl=1)
    await ours.put("a", b"before")
    number = await theirs("watch", bucket="b", options={})
    await told_there(theirs, number, 1)
    await ours.put("a", b"after")
    await ours.delete("a")
    await ours.put("p", b"1")
    await ours.purge("p")
    await ours.create("lease", b"2", ttl=1)
    assert await told_there(theirs, number, 7) == [
        ("a", "PUT", b"before"),
        ("a", "PUT", b"after"),
        ("a", "DEL", b""),
        ("p", "PUT", b"1"),
        ("p", "PURGE", b""),
        ("lease", "PUT", b"2"),
        ("lease", "PURGE", b""),
    ]


async def test_our_watcher_is_told_what_they_do(kv, at_theirs):
    ours = await kv(marker_ttl=1)
    await at_theirs("put", "a", b"before")
    async with ours.watch() as watch:
        assert (await anext(watch)).value == b"before"
        assert watch.ready.is_set()
        await at_theirs("put", "a", b"after")
        await at_theirs("delete", "a")
        await at_theirs("put", "p", b"1")
        await at_theirs("purge", "p")
        await at_theirs("create", "lease", b"2", ttl="1s")
        told = [await anext(watch) for _ in range(6)]
    assert [(each.key, each.operation, each.value) for each in told] == [
        ("a", Operation.PUT, b"after"),
        ("a", Operation.DELETE, b""),
        ("p", Operation.PUT, b"1"),
        ("p", Operation.PURGE, b""),
        ("lease", Operation.PUT, b"2"),
        ("lease", Operation.EXPIRED, b""),
    ]


async def test_their_watcher_of_every_revision_and_of_some_keys(kv, theirs):
    ours = await kv(history=5)
    for number in range(3):
        await ours.put("room.1", number)
    await ours.put("lobby", 0)
    number = await theirs("watch", bucket="b", options={"key": "room.*", "include": "history"})
    await ours.put("room.2", 0)
    told = await told_there(theirs, number, 4)
    assert told == [("room.1", "PUT", b"%d" % each) for each in range(3)] + [("room.2", "PUT", b"0")]


# -- time to live -----------------------------------------------------------------------------------------------------


async def test_a_key_of_ours_expires_there_and_of_theirs_here(kv, at_theirs):
    ours = await kv(marker_ttl=1)
    await ours.put("ours", b"1", ttl=1)
    await at_theirs("create", "theirs", b"1", ttl="1s")

    async def gone():
        return await ours.get("ours") is None and await ours.get("theirs") is None

    async def gone_there():
        found = [await at_theirs("get", key) for key in ("ours", "theirs")]
        return all(each is None or each["operation"] == "PURGE" for each in found)

    await eventually(gone, within=20)
    await eventually(gone_there, within=20)
    await at_theirs("create", "ours", b"taken over")
    assert (await ours.get("ours")).value == b"taken over"


async def test_their_list_of_keys_holds_an_expired_one_as_long_as_its_marker_stays(kv, at_theirs):
    """What guides/interop.md says of it: nats.js lists by ``KV-Operation`` alone."""
    ours = await kv(marker_ttl=5)
    await ours.put("lease", b"1", ttl=5)

    async def only_there():
        return await listed(ours.keys()) == [] and await at_theirs("keys") == ["lease"]

    async def nowhere():
        return await at_theirs("keys") == []

    await eventually(only_there, within=20)
    await eventually(nowhere, within=20)


# -- buckets made there -----------------------------------------------------------------------------------------------


async def test_a_bucket_made_there_is_bound_to_as_it_is(sb, theirs, at_theirs):
    await theirs("create_bucket", bucket="b", options={"history": 3})
    bucket = await sb.key_value("b", ensure="bind")
    await bucket.put("a", b"1")
    assert (await at_theirs("get", "a"))["value"] == b"1"
    with pytest.raises(FeatureDisabled):
        await bucket.put("a", b"2", ttl=5)
    info = await bucket.info()
    assert (info.bucket, info.config.history, info.config.marker_ttl) == ("b", 3, None)
    assert "b" in [name async for name in sb.buckets.names()]


async def test_how_a_bucket_made_there_differs_is_named_and_can_be_brought_in_line(sb, theirs, at_theirs):
    await theirs("create_bucket", bucket="b", options={"history": 3, "markerTTL": 5000})
    with pytest.raises(ConfigDrift) as caught:
        await sb.key_value("b", history=3)
    assert set(caught.value.differences) == {"deny_delete"}
    bucket = await sb.key_value("b", history=3, ensure="update")
    await sb.key_value("b", history=3)
    await at_theirs("put", "a", b"1")
    assert (await bucket.get("a")).value == b"1"


async def test_a_bucket_of_ours_is_what_they_would_open(kv, theirs):
    ours = await kv(history=7, ttl=3600)
    await ours.put("a", b"1")
    await theirs("create_bucket", bucket="b", options={"history": 7})
    status = await theirs("bucket_status", bucket="b")
    assert status == {"bucket": "b", "values": 1, "history": 7, "ttl": 3_600_000, "markerTTL": 5000}
